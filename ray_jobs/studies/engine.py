"""Runs a study: first the stages that several runs share, then the rest of each run as a trial.

Shared stages are Ray tasks of the driver. The rest of a run is a trial of Ray Tune: a process that
starts the run's own stages as Ray tasks, and reports to the driver what happens to them.
"""

import importlib
import logging
import os
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from lafp import storage
from lafp.runs.run_dir import RunDir
from lafp.storage import UnreachableError
from lafp.storage.temporary import TemporaryFolder, folder_for_libraries
from lafp.train.metrics.log import read_metrics
from ray_jobs.core.watchdog import Watchdog
from ray_jobs.studies.progress import ProgressPrinter
from ray_jobs.studies.stage_graph import StageGraph, StageNode, is_complete, stage_of
from ray_jobs.studies.stage_tasks import run_stages
from ray_jobs.studies.stopped_early import (
    STOPPED_EARLY,
    mark_stopped_early,
    was_stopped_early,
)
from ray_jobs.studies.study_config import AshaConfig, StudyConfig

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables do not say which stage a trial is at
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # most of our reports to Tune hold no metric
}


def run_graph(
    graph: StageGraph, study: RunDir, cfg: StudyConfig, max_concurrent: int
) -> dict[str, str]:
    """Computes all stages that are not complete.

    Tune's own state is not used to resume: a stage's folder says how far it is, so a trial that
    starts again, in this call or another, goes on from there. We record which runs ASHA stopped,
    but not the state of its rungs: in another call they fill anew, with the runs that are left.

    Args:
        graph: The stages of all runs.
        study: The study's folder.
        cfg: The study's config.
        max_concurrent: Largest number of stages at a time.

    Returns:
        Run -> why it is not complete: an error, or ``STOPPED_EARLY``.

    Raises:
        JobError: The watchdog saw no progress.
        ConfigError: An input of a complete stage has been replaced.
    """
    graph.write_folders(study)
    states, shared = graph.states(study), graph.shared()
    todo = {key: node for key, node in graph.nodes.items() if states[key] != "complete"}
    watchdog = Watchdog(60 * cfg.stall_timeout_min)
    printer = ProgressPrinter(todo.values(), study, max_concurrent, watchdog)
    failed = run_stages(
        [node for key, node in todo.items() if key in shared], study, max_concurrent, printer
    )
    missing: dict[str, str] = {}
    trials: list[str] = []
    for run, keys in graph.runs.items():
        own = [todo[key] for key in keys.values() if key in todo and key not in shared]
        if why := graph.why_incomplete(run, failed):
            missing[run] = why
        elif own and cfg.asha and was_stopped_early(graph, study, run):
            missing[run] = STOPPED_EARLY
        elif own:
            trials.append(run)
        if run in missing:
            printer.given_up(run, own, missing[run])
    return missing | _run_trials(trials, graph, study, cfg, max_concurrent, printer)


def _run_trials(
    runs: Sequence[str],
    graph: StageGraph,
    study: RunDir,
    cfg: StudyConfig,
    max_concurrent: int,
    printer: ProgressPrinter,
) -> dict[str, str]:
    """Computes the rest of each run. Returns run -> why it is not complete."""
    if not runs:
        return {}
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # This logger warns that Tune's own loggers, which are disabled above, wrote no metrics.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
    driver = _Driver(graph, study, printer)
    trainable = tune.with_parameters(
        _run_trial,
        graph=graph,
        study=study,
        # If fewer runs than max_concurrent are left, each may run several stages at a time. ASHA
        # compares runs after the same steps of the same stages, so they go one after the other.
        max_concurrent=1 if cfg.asha else max(1, max_concurrent // len(runs)),
        metric=cfg.asha.metric if cfg.asha else None,
    )
    # Ray would write its state through pyarrow's S3 client, and fail if S3 is down for a moment.
    # lafp never reads that state, and only processes on the driver's node do.
    with TemporaryFolder(ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            # A trial's process only waits for its stages, so it holds no CPU. Tune requires some
            # resource, hence one byte of memory.
            tune.with_resources(trainable, {"memory": 1}),
            param_space={"run": tune.grid_search(list(runs))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=max_concurrent,
                scheduler=_asha(cfg.asha, graph) if cfg.asha else None,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=cfg.max_trial_failures),
                verbose=0,
                callbacks=[driver],
            ),
        )
        with folder_for_libraries():  # Tune imports wandb, even if nothing is tracked
            importlib.import_module("ray.air.integrations.wandb")
        tuner.fit()
    return driver.missing


def _asha(cfg: AshaConfig, graph: StageGraph) -> ASHAScheduler:
    num_steps = (getattr(node.config, "train", None) for node in graph.nodes.values())
    most = sum(train.num_steps for train in num_steps if train)
    return ASHAScheduler(
        time_attr="step",
        metric=cfg.metric,
        mode=cfg.mode,
        grace_period=cfg.grace_steps,
        reduction_factor=cfg.reduction_factor,
        # Tune refuses an end before the grace period.
        max_t=max(most, cfg.grace_steps),
        # A run that reaches the last step still has stages to do, such as its evaluation.
        stop_last_trials=False,
    )


# ---------------------------------------------------------------------------------------------
# In the trial's process


def _run_trial(
    config: dict[str, Any],
    graph: StageGraph,
    study: RunDir,
    max_concurrent: int,
    metric: str | None,
) -> None:
    storage.be_patient()  # as in the driver: see ``run_study``
    nodes = [graph.nodes[key] for key in graph.runs[config["run"]].values()]
    left = [node for node in nodes if not is_complete(node, study)]
    done = [node for node in nodes if node not in left]
    run_stages(left, study, max_concurrent, _Reports(study, metric, done))
    # The driver tells by this whether a trial ended or was stopped by ASHA (`on_trial_complete`).
    tune.report({"is_over": True})


class _Reports:
    """Reports to the driver what happens to the stages of a trial, and the metric for ASHA.

    Args:
        study: The study's folder.
        metric: Name of the metric; None without ASHA.
        done: The trial's stages that are complete. Their steps count, so that a trial that starts
            again is compared with others at the stage at which it is.
    """

    def __init__(self, study: RunDir, metric: str | None, done: Sequence[StageNode]) -> None:
        self._study, self._metric = study, metric
        self._running: list[StageNode] = []
        self._steps: dict[str, int] = {}
        """Key of a stage -> the last step for which the metric was reported."""
        for node in done if metric else ():
            records = read_metrics(stage_of(node, study).uri)
            if steps := [int(record["step"]) for record in records if metric in record]:
                self._steps[node.key] = max(steps)

    def started(self, node: StageNode) -> None:
        self._running.append(node)
        tune.report({"started": node.key})

    def ended(self, node: StageNode, error: str | None) -> None:
        self.look()  # reports the last metrics of the stage
        self._running.remove(node)
        tune.report({"ended": node.key, "error": error})

    def look(self) -> None:
        for node in self._running if self._metric else ():
            try:
                records = read_metrics(stage_of(node, self._study).uri)
            except UnreachableError:  # the next look reads them too
                continue
            for record in records:
                step = int(record["step"])
                if self._metric in record and step > self._steps.get(node.key, 0):
                    self._steps[node.key] = step
                    # ASHA counts the steps of all stages of a run.
                    tune.report(
                        {"step": sum(self._steps.values()), self._metric: record[self._metric]}
                    )


# ---------------------------------------------------------------------------------------------
# In the driver


class _Driver(tune.Callback):
    """Gets the trials' reports, feeds the progress printer, and records why runs are incomplete."""

    def __init__(self, graph: StageGraph, study: RunDir, printer: ProgressPrinter) -> None:
        self._graph, self._study, self._printer = graph, study, printer
        self.missing: dict[str, str] = {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: object
    ) -> None:
        """Forgets earlier failures if a trial starts again after its process died."""
        self.missing.pop(trial.config["run"], None)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: object
    ) -> None:
        """See ``tune.Callback``."""
        if "started" in result:
            self._printer.started(self._graph.nodes[result["started"]])
        elif "ended" in result:
            node, error = self._graph.nodes[result["ended"]], result["error"]
            self._printer.ended(node, error)
            if error:
                run = trial.config["run"]
                before = f"{self.missing[run]}; " if run in self.missing else ""
                self.missing[run] = f"{before}{node.name}: {error}"

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: object
    ) -> None:
        """See ``tune.Callback``."""
        run, result = trial.config["run"], trial.last_result
        if "is_over" not in result:
            mark_stopped_early(self._graph, self._study, run, result["step"])
            self.missing[run] = STOPPED_EARLY
            self._give_up(run, f"{STOPPED_EARLY} at step {result['step']}")
        elif run in self.missing:
            self._give_up(run, "a stage failed, so the rest of the run is left out")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: object
    ) -> None:
        """See ``tune.Callback``."""
        run = trial.config["run"]
        self.missing[run] = "its process died more often than max_trial_failures allows"
        self._give_up(run, self.missing[run])

    def on_step_end(self, iteration: int, trials: list[Trial], **_: object) -> None:
        """See ``tune.Callback``."""
        self._printer.look()

    def _give_up(self, run: str, why: str) -> None:
        nodes = (self._graph.nodes[key] for key in self._graph.runs[run].values())
        self._printer.given_up(run, nodes, why)
