r"""Run a grid of pipelines over settings, shares of the labels and seeds; shared stages run once.

python -m ray_jobs.study configs/studies/demo.yaml
python -m ray_jobs.study configs/studies/label_fraction.yaml    # success over the share of labels
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "study", "ray_jobs.studies.study_config:StudyConfig", __doc__, has_page=True, can_be_alone=True
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

import functools
import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lafp import storage
from lafp.config import ConfigError
from lafp.evaluate.rows.grouped import merged, read_run
from lafp.report import markdown
from lafp.report.markdown import Command
from lafp.report.study_page import write_study
from lafp.runs.run_dir import RunDir, StageDir
from lafp.runs.wording import counted
from ray_jobs import pipeline
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Resources, cluster_address, is_ray_wanted, num_that_fit
from ray_jobs.core.job import Job, JobError, Part, can_all_be_alone
from ray_jobs.studies.in_turn import run_in_turn
from ray_jobs.studies.stage_graph import StageGraph, run_dir, share_stages, stage_of
from ray_jobs.studies.stopped_early import STOPPED_EARLY, was_stopped_early
from ray_jobs.studies.study_config import StudyConfig, cells


@functools.cache
def graph_of(cfg: StudyConfig) -> StageGraph:
    """Returns the stages of all runs, each once."""
    return share_stages({cell.name: list(pipeline.steps(cell.pipeline)) for cell in cells(cfg)})


def resources(cfg: StudyConfig) -> Resources:
    """Returns the resources of one stage or, if the job starts Ray itself, of all at a time."""
    # A cluster that runs already may be small: ``run_study`` takes as many at a time as it holds.
    num = 1 if cluster_address() else min(cfg.max_concurrent, len(cells(cfg)))
    return _largest(cfg) * num


def _largest(cfg: StudyConfig) -> Resources:
    """Returns resources that are enough for any single stage of any run."""
    each = (pipeline.JOB.resources(cell.pipeline) for cell in cells(cfg))
    return functools.reduce(operator.or_, each)


def check(cfg: StudyConfig, run: RunDir) -> None:
    """Finds errors now that would otherwise stop a run hours later.

    Raises:
        ConfigError: See ``pipeline.check``; the message names the run.
    """
    graph = graph_of(cfg)
    for cell in cells(cfg):
        try:
            pipeline.check_config(cell.pipeline, graph.run_dir(run, cell.name))
        except ConfigError as error:
            raise ConfigError(f"{cell.name}: {error}") from None
    for node in graph.nodes.values():
        if node.job in pipeline.TRAINING_JOBS:
            try:
                pipeline.check_if_its_turn(node.job, node.config, graph.run_dir(run, node.run))
            except ConfigError as error:
                raise ConfigError(f"{node.run}: {error}") from None


def plan(cfg: StudyConfig, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: runs, stages saved by sharing, and stages found complete."""
    graph, largest = graph_of(cfg), _largest(cfg)
    return [
        f"{len(graph.runs)} runs: {', '.join(graph.runs)}",
        *what_sharing_saves(graph),
        f"shared stages first ({len(graph.shared())}), then the rest of each run; at most "
        f"{cfg.max_concurrent} at a time, which need up to {largest.num_cpus:g} CPUs and "
        f"{largest.num_gpus:g} GPUs each",
        *what_is_found(graph, run),
    ]


def sharing(graph: StageGraph) -> dict[str, tuple[int, int]]:
    """Maps each job to how often it runs, and how often it would run if runs shared no stages."""
    wanted = Counter(
        graph.nodes[key].job.name for keys in graph.runs.values() for key in keys.values()
    )
    needed = Counter(node.job.name for node in graph.nodes.values())
    return {job: (needed[job], num) for job, num in wanted.items()}


def what_sharing_saves(graph: StageGraph) -> list[str]:
    """Returns lines of a plan: how many stages sharing saves."""
    nums = sharing(graph)
    needed, wanted = (sum(column) for column in zip(*nums.values(), strict=True))
    if needed == wanted:
        return [f"{needed} stages; none is shared"]
    return [
        f"{needed} stages instead of {wanted}, the rest is shared:",
        *(f"  {job}: {once} instead of {each}" for job, (once, each) in nums.items()),
    ]


def what_is_found(graph: StageGraph, study: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: how far stages have come in earlier starts, with any config.

    Raises:
        ConfigError: An input of a complete stage has been replaced.
    """
    states = graph.states(study)
    num = Counter(states.values())
    lines = [
        f"found in {study.uri}: {num['complete']} stages complete, {num['partial']} to go on, "
        f"{num['new']} to start"
    ]
    for name in dict.fromkeys(node.name for node in graph.nodes.values()):
        keys = [key for key, node in graph.nodes.items() if node.name == name]
        if any(states[key] != "new" for key in keys):
            each = (f"{states[key]} for {graph.nodes[key].run}" for key in keys)
            lines.append(f"  {name}: {', '.join(each)}")
    return lines


def run_study(cfg: StudyConfig, run: RunDir, _: StageDir) -> dict[str, object]:
    """Runs the missing stages, then writes the tables of the complete runs.

    Raises:
        JobError: Runs failed (the tables hold the others), or no stage makes progress.
        ConfigError: The cluster cannot hold one stage.
    """
    graph = graph_of(cfg)
    for line in plan(cfg, run):
        print(line, flush=True)
    is_on_ray = is_ray_wanted()
    with storage.patient():
        missing = _run_on_ray(cfg, graph, run) if is_on_ray else run_in_turn(graph, run)
    num_complete = len(graph.runs) - len(missing)
    summary: dict[str, object] = {"num_runs": num_complete, "num_stages": len(graph.nodes)}
    if num_complete:
        # Before the error below, so that a run that failed does not cost the others their results.
        summary |= _write_results(cfg, run, missing)
    stopped = [name for name, why in missing.items() if why == STOPPED_EARLY]
    if len(missing) > len(stopped):
        lines = "\n".join(f"  {name}: {why}" for name, why in missing.items())
        raise JobError(
            f"The results hold {num_complete} of {len(graph.runs)} runs.\n{lines}\n"
            "Run the same command again to go on"
            + ("; a stage's log.txt tells more." if is_on_ray else ".")
        )
    return summary | ({"stopped_early": ", ".join(stopped)} if stopped else {})


def _run_on_ray(cfg: StudyConfig, graph: StageGraph, run: RunDir) -> dict[str, str]:
    """Runs the missing stages, as many at a time as the cluster holds. See ``run_graph``."""
    from ray_jobs.studies.engine import run_graph  # with Ray, which may not be installed
    from ray_jobs.training.stop import stages_stopped_by_sigterm

    num = num_that_fit(_largest(cfg), cfg.max_concurrent)
    if num < cfg.max_concurrent:
        print(
            f"The cluster has room for {counted(num, 'stage')} at a time, max_concurrent is "
            f"{cfg.max_concurrent}. The study runs {num} at a time."
        )
    with stages_stopped_by_sigterm():
        return run_graph(graph, run, cfg, num)


def _write_results(cfg: StudyConfig, run: RunDir, missing: Mapping[str, str]) -> dict[str, object]:
    """Writes tables, charts and the page of the complete runs. Returns their summary."""
    runs = []
    for cell in cells(cfg):
        # A finished model that all runs read (`evaluate.lam`) has a seed of its own.
        about: dict[str, Any] = {"seed": cell.seed}
        if cfg.labels:
            about |= {
                "variant": cell.variant or None,
                "label_fraction": cell.label_fraction,
                "label_scope": cfg.labels.scope,
            }
        if cell.name not in missing:
            runs.append(read_run(run_dir(run, cell.name), **about))
    shared = sharing(graph_of(cfg)) if cfg.labels else None
    axes = {cell.variant: cell.values for cell in cells(cfg)} if cfg.axes else {}
    results = replace(merged(runs), axes=axes)
    return write_study(run.uri, cfg.name, results, missing=missing, sharing=shared)


def parts(cfg: StudyConfig, run: RunDir) -> list[Part]:
    """Returns the stages of all runs except those that ASHA has stopped."""
    graph = graph_of(cfg)
    names = (name for name in graph.runs if not (cfg.asha and was_stopped_early(graph, run, name)))
    return replace(graph, runs={name: graph.runs[name] for name in names}).parts(run)


def can_be_alone(cfg: StudyConfig, run: RunDir) -> bool:
    """Says whether what is left can be done by this process, a stage at a time."""
    return cfg.max_concurrent == 1 and cfg.asha is None and can_all_be_alone(parts(cfg, run))


def publish(cfg: StudyConfig, run: RunDir, page: str, command: Command) -> None:
    """Writes the complete study's results into their section of a page."""
    nodes = graph_of(cfg).nodes.values()
    stages = [stage_of(node, run) for node in nodes if not node.job.is_remade]
    facts = markdown.facts_of(stages)
    markdown.publish(page, run.uri, name=cfg.name, note=cfg.note, command=command, facts=facts)


JOB = Job(
    name="study",
    schema=StudyConfig,
    check=check,
    resources=resources,
    can_be_alone=can_be_alone,
    plan=plan,
    run=run_study,
    tell=findings.study,
    next_steps=next_steps.study,
    is_remade=True,  # a stage with another config has another folder, so nothing is overwritten
    parts=parts,
    publish=publish,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
