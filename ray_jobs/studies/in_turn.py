"""Runs a study whose stages need no Ray: one after the other, in this process."""

import traceback

from lafp.config import ConfigError
from lafp.runs.run_dir import RunDir
from ray_jobs.core.job import JobError, JobStoppedError, execute
from ray_jobs.studies.progress import ProgressPrinter
from ray_jobs.studies.stage_graph import StageGraph, StageNode, run_dir


def run_in_turn(graph: StageGraph, study: RunDir) -> dict[str, str]:
    """Computes all stages that are not complete, and prints what they say.

    A stage that fails stops only the stages that read it.

    Args:
        graph: The stages of all runs.
        study: The study's folder.

    Returns:
        Run -> why it is not complete.

    Raises:
        JobStoppedError: A SIGTERM stopped a stage that trains.
        ConfigError: An input of a complete stage has been replaced.
    """
    graph.write_folders(study)
    states = graph.states(study)
    todo = [node for key, node in graph.nodes.items() if states[key] != "complete"]
    printer = ProgressPrinter(todo, study, max_concurrent=1)
    unfinished = {node.key for node in todo}
    failed: dict[str, str] = {}
    for node in todo:
        if unfinished.intersection(node.reads):  # one of them has failed
            continue
        print(f"\n=== {node} ===", flush=True)
        printer.started(node)
        error = _error_of(node, study)
        if error is None:
            unfinished.remove(node.key)
        else:
            failed[node.key] = error
        printer.ended(node, error)
    return {run: why for run in graph.runs if (why := graph.why_incomplete(run, failed))}


def _error_of(node: StageNode, study: RunDir) -> str | None:
    """Runs a stage. Returns why it failed, or None."""
    try:
        execute(node.job, node.config, run_dir(study, node.run))
    except JobStoppedError:
        raise
    except Exception as error:
        if not isinstance(error, (ConfigError, JobError, OSError)):
            traceback.print_exc()
        return str(error).strip() or repr(error)
    return None
