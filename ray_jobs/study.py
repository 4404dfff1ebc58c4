r"""A grid of pipelines, what they have in common done once: one table, one plot, results.parquet.

python -m ray_jobs.study configs/studies/demo.yaml
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "study", "ray_jobs.studies.study_config:StudyConfig", __doc__, has_page=True
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

import functools
import operator
from collections import Counter
from typing import Any

from lafp.config import ConfigError
from lafp.evaluate.run_record import StageRecord
from lafp.evaluate.study import read_runs
from lafp.report import markdown
from lafp.report.markdown import Command
from lafp.report.study_page import write_study
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs import pipeline
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Demand
from ray_jobs.core.job import Job, JobError
from ray_jobs.studies.stage_graph import StageGraph, run_dir, run_stages, share_stages, stage_of
from ray_jobs.studies.study_config import StudyConfig, cells
from ray_jobs.training.stop import stages_stopped_by_sigterm


@functools.cache
def graph_of(cfg: StudyConfig) -> StageGraph:
    """The stages of all runs, each once."""
    return share_stages({cell.name: list(pipeline.steps(cell.pipeline)) for cell in cells(cfg)})


def demand(cfg: StudyConfig) -> Demand:
    """As many stages at a time as allowed, each as hungry as the hungriest."""
    return hungriest(cfg) * min(cfg.max_concurrent, len(cells(cfg)))


def hungriest(cfg: StudyConfig) -> Demand:
    """What any stage of any run needs."""
    demands = (pipeline.JOB.demand(cell.pipeline) for cell in cells(cfg))
    return functools.reduce(operator.or_, demands)


def check(cfg: StudyConfig, _: RunDir) -> None:
    """Finds what would stop a run hours later.

    Raises:
        ConfigError: Of a run; the message names it.
    """
    for cell in cells(cfg):
        try:
            pipeline.check_models(cell.pipeline)
        except ConfigError as error:
            raise ConfigError(f"{cell.name}: {error}") from None


def plan(cfg: StudyConfig, run: RunDir) -> list[str]:
    """The runs, what sharing saves, and what is there already."""
    graph = graph_of(cfg)
    return [
        f"{len(graph.runs)} runs: {', '.join(graph.runs)}",
        *what_sharing_saves(graph),
        *what_is_found(graph, run),
    ]


def sharing(graph: StageGraph) -> dict[str, tuple[int, int]]:
    """Job -> how often it is done, and how often it would be if runs shared nothing."""
    wanted = Counter(
        graph.nodes[key].job.name for keys in graph.runs.values() for key in keys.values()
    )
    needed = Counter(node.job.name for node in graph.nodes.values())
    return {job: (needed[job], num) for job, num in wanted.items()}


def what_sharing_saves(graph: StageGraph) -> list[str]:
    """Lines of a plan."""
    nums = sharing(graph)
    needed, wanted = (sum(column) for column in zip(*nums.values(), strict=True))
    if needed == wanted:
        return [f"{needed} stages; none is shared"]
    return [
        f"{needed} stages instead of {wanted}, the rest is shared:",
        *(f"  {job}: {once} instead of {each}" for job, (once, each) in nums.items()),
    ]


def what_is_found(graph: StageGraph, study: RunDir) -> list[str]:
    """Lines of a plan: which stages are there, from an earlier start with this or another config.

    Raises:
        ConfigError: What a stage was made from has been replaced.
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


def run_study(cfg: StudyConfig, run: RunDir, _: StageDir) -> dict[str, Any]:
    """Runs what is missing, then writes the tables of the complete runs.

    Raises:
        JobError: Stages failed. The tables hold the other runs.
    """
    graph = graph_of(cfg)
    for line in plan(cfg, run):
        print(line, flush=True)
    with stages_stopped_by_sigterm():
        errors = run_stages(graph, run, cfg.max_concurrent)
    complete = [name for name in graph.runs if graph.is_complete(name, errors)]
    summary: dict[str, Any] = {"num_runs": len(complete), "num_stages": len(graph.nodes)}
    if complete:
        summary |= write_study(run.uri, cfg.name, read_runs([run_dir(run, n) for n in complete]))
    if errors:
        lines = "\n".join(f"  {graph.nodes[key]}: {error}" for key, error in errors.items())
        raise JobError(
            f"{len(errors)} of {len(graph.nodes)} stages are missing, the tables hold "
            f"{len(complete)} of {len(graph.runs)} runs.\n{lines}\n"
            "Run the same command again to go on; a stage's log.txt tells more."
        )
    return summary


def publish(cfg: StudyConfig, run: RunDir, page: str, command: Command) -> None:
    """Writes the complete study's results into their section of a page."""
    facts = facts_of(graph_of(cfg), run)
    markdown.publish(page, run.uri, name=cfg.name, note=cfg.note, command=command, facts=facts)


def facts_of(graph: StageGraph, run: RunDir) -> str:
    """What it took, and where."""
    stages = [stage_of(node, run) for node in graph.nodes.values() if not node.job.is_remade]
    return markdown.facts_of([StageRecord(stage.uri, stage.name) for stage in stages])


JOB = Job(
    name="study",
    schema=StudyConfig,
    check=check,
    demand=demand,
    plan=plan,
    run=run_study,
    tell=findings.study,
    next_steps=next_steps.study,
    is_remade=True,  # its stages are told apart by their configs
    parts=lambda cfg, run: graph_of(cfg).parts(run),
    publish=publish,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
