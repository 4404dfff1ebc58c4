r"""How success grows with labels: Ray Tune over label fractions, methods and seeds.

python -m ray_jobs.sweep configs/sweep/label_fraction.yaml
"""

from ray_jobs.core.cli import CommandLine, main

COMMAND_LINE = CommandLine(
    "sweep", "ray_jobs.studies.sweep_config:SweepConfig", __doc__, has_page=True
)
if __name__ == "__main__":
    COMMAND_LINE.answer_early()

from dataclasses import replace
from typing import Any

from lafp.evaluate.sweep import SweepRun, read_sweep
from lafp.report import markdown
from lafp.report.markdown import Command
from lafp.report.sweep_page import write_sweep
from lafp.runs.run_dir import RunDir, StageDir
from ray_jobs import study
from ray_jobs.core import findings, next_steps
from ray_jobs.core.cluster import Demand, cluster_address, num_that_fit
from ray_jobs.core.job import Job, JobError, Part
from ray_jobs.core.watchdog import Watchdog
from ray_jobs.studies.stage_graph import StageGraph, run_dir, run_stages, share_folders
from ray_jobs.studies.sweep_config import SweepConfig, as_study, trials
from ray_jobs.studies.trials import STOPPED_EARLY, TRIAL_CPUS, run_trials, was_stopped_early
from ray_jobs.study import facts_of, graph_of, hungriest, sharing, what_is_found, what_sharing_saves
from ray_jobs.training.stop import stages_stopped_by_sigterm


def demand(cfg: SweepConfig) -> Demand:
    """One trial, or, where the job starts Ray itself, all that are to run at a time."""
    num = 1 if cluster_address() else min(cfg.max_concurrent, len(trials(cfg)))
    return _each(cfg) * num


def plan(cfg: SweepConfig, run: RunDir) -> list[str]:
    """The trials, and what sharing saves."""
    graph, each = graph_of(as_study(cfg)), _each(cfg)
    fractions = ", ".join(f"{100 * fraction:g} %" for fraction in cfg.label_fractions)
    methods = ", ".join(method.label for method in cfg.methods) or "the pipeline's"
    return [
        f"{len(graph.runs)} trials: labels {fractions} (scope {cfg.label_scope}); methods "
        f"{methods}; seeds {', '.join(map(str, cfg.seeds))}",
        *what_sharing_saves(graph),
        f"shared stages first ({len(graph.shared().nodes)}), then trials, at most "
        f"{cfg.max_concurrent} at a time; each needs {each.num_cpus:g} CPUs, "
        f"{each.num_gpus:g} GPUs",
        *what_is_found(graph, run),
    ]


def run_sweep(cfg: SweepConfig, run: RunDir, _: StageDir) -> dict[str, Any]:
    """Runs what is missing, then writes curve and tables of the complete trials.

    Raises:
        JobError: Stages or trials failed (curve and tables hold the others), or all wait.
        ConfigError: The cluster cannot hold one trial.
    """
    graph = graph_of(as_study(cfg))
    for line in plan(cfg, run):
        print(line, flush=True)
    num = num_that_fit(_each(cfg), cfg.max_concurrent)
    if num < cfg.max_concurrent:
        print(f"The cluster holds {num} at a time, not max_concurrent {cfg.max_concurrent}.")
    with stages_stopped_by_sigterm():
        startable, errors = _run(cfg, graph, run, num)
    finished = [
        SweepRun(
            run=run_dir(run, trial.cell.name),
            method=trial.method,
            label_fraction=trial.label_fraction,
        )
        for trial in trials(cfg)
        if trial.cell.name in startable.runs and trial.cell.name not in errors
    ]
    summary: dict[str, Any] = {"num_trials": len(finished), "num_stages": len(graph.nodes)}
    if finished:
        results = read_sweep(finished, cfg.label_scope)
        summary |= write_sweep(run.uri, cfg.name, results, errors, sharing(graph))
    stopped = [name for name, error in errors.items() if error == STOPPED_EARLY]
    if len(errors) > len(stopped):
        lines = "\n".join(f"  {name}: {error}" for name, error in errors.items())
        raise JobError(
            f"The curve holds {len(finished)} of {len(graph.runs)} trials.\n{lines}\n"
            "Run the same command again to go on; a stage's log.txt tells more."
        )
    return summary | ({"stopped_early": ", ".join(stopped)} if stopped else {})


def publish(cfg: SweepConfig, run: RunDir, page: str, command: Command) -> None:
    """Writes the sweep's results into their section of a page."""
    facts = facts_of(graph_of(as_study(cfg)), run)
    markdown.publish(page, run.uri, name=cfg.name, note=cfg.note, command=command, facts=facts)


def _run(
    cfg: SweepConfig, graph: StageGraph, run: RunDir, num: int
) -> tuple[StageGraph, dict[str, str]]:
    """Shared stages, then trials. Returns the trials that had their stages, and what failed."""
    watchdog = Watchdog(60 * cfg.stall_timeout_min)
    failed = run_stages(graph.shared(), run, num, watchdog)
    share_folders(graph, run)
    startable = StageGraph(
        nodes=graph.nodes,
        runs={n: keys for n, keys in graph.runs.items() if graph.is_complete(n, failed)},
    )
    errors = {str(graph.nodes[key]): error for key, error in failed.items()}
    errors |= run_trials(startable, run, num, cfg.early_stopping, cfg.max_trial_failures, watchdog)
    return startable, errors


def parts(cfg: SweepConfig, run: RunDir) -> list[Part]:
    """The stages of all trials but those that ASHA has stopped."""
    graph = graph_of(as_study(cfg))
    names = (n for n in graph.runs if not (cfg.early_stopping and was_stopped_early(run, n)))
    return replace(graph, runs={name: graph.runs[name] for name in names}).parts(run)


def _each(cfg: SweepConfig) -> Demand:
    """What a trial holds at a time, its waiting process included."""
    each = hungriest(as_study(cfg))
    return replace(each, num_cpus=each.num_cpus + TRIAL_CPUS)


JOB = Job(
    name="sweep",
    schema=SweepConfig,
    check=lambda cfg, run: study.check(as_study(cfg), run),
    demand=demand,
    plan=plan,
    run=run_sweep,
    tell=findings.sweep,
    next_steps=next_steps.study,
    is_remade=True,  # its stages are told apart by their configs
    parts=parts,
    publish=publish,
)

if __name__ == "__main__":
    main(JOB, COMMAND_LINE)
