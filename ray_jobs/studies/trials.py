"""Ray Tune: what each trial of a sweep does not share with others, one trial beside the other."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler

from lafp import storage
from lafp.config import ConfigError
from lafp.runs.progress import duration
from lafp.runs.run_dir import RunDir, StageDir
from lafp.storage import strict_json
from lafp.train.metrics.log import read_metrics
from ray_jobs.core.scratch import scratch_folder
from ray_jobs.core.watchdog import Watchdog
from ray_jobs.studies.stage_graph import (
    StageGraph,
    StageNode,
    error_of,
    is_complete,
    last_progress_line,
    run_dir,
    stage_of,
    start,
)
from ray_jobs.studies.sweep_config import EarlyStoppingConfig

TRIAL_CPUS = 0.01
"""Of the process that only waits for its trial's stages. Tune cannot do with none."""
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables on the terminal; ours tell which stage a trial is at
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # how a trial ended is a result without metrics
}
STOPPED_EARLY = "stopped early"
"""Why a trial did not get to its end, where ASHA stopped it."""
_POLL_S = 2.0
_TOLD_EVERY_S = 20.0


def run_trials(
    graph: StageGraph,
    study: RunDir,
    max_concurrent: int,
    early_stopping: EarlyStoppingConfig | None,
    max_failures: int,
    watchdog: Watchdog,
) -> dict[str, str]:
    """Runs every run's stages that are not complete.

    Tune's own state is not used to resume: a stage knows how far it is, so a trial that starts
    again, in this call or another, goes on from there. Whom ASHA stopped is written down, its
    rungs are not: in another call they fill anew, with the trials that are left.

    Args:
        graph: All runs' stages, the shared ones complete.
        study: The sweep's folder.
        max_concurrent: Trials at a time.
        early_stopping: ASHA, or None.
        max_failures: How often a trial whose process died starts again.
        watchdog: Asked now and then whether the running trials get on.

    Returns:
        Run -> what kept it from its end: an error, or ``STOPPED_EARLY``.

    Raises:
        JobError: The watchdog saw no progress.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It misses the metrics that those loggers would have written.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
    unfinished = [run for run in graph.runs if not all(_complete(graph, study, run))]
    stopped = [run for run in unfinished if early_stopping and was_stopped_early(study, run)]
    names = [run for run in unfinished if run not in stopped]
    if not names:
        return dict.fromkeys(stopped, STOPPED_EARLY)
    metric = early_stopping.metric if early_stopping else None
    teller = _Teller(graph, study, len(names), watchdog, metric)
    trainable = tune.with_parameters(_run_trial, graph=graph, study=study, metric=metric)
    with scratch_folder() as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"CPU": TRIAL_CPUS}),
            param_space={"run": tune.grid_search(names)},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=max_concurrent,
                scheduler=_asha(early_stopping, graph) if early_stopping else None,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=max_failures),
                verbose=0,
                callbacks=[teller],
            ),
        )
        tuner.fit()
    return {
        run: teller.failures.get(run, STOPPED_EARLY)
        for run in unfinished
        if not all(_complete(graph, study, run))
    }


def was_stopped_early(study: RunDir, run: str) -> bool:
    """Whether ASHA has stopped a trial, in this call or an earlier one."""
    return storage.is_file(_stop_mark(study, run))


def _stop_mark(study: RunDir, run: str) -> str:
    return storage.join(run_dir(study, run).uri, "stopped_early.json")


def _complete(graph: StageGraph, study: RunDir, run: str) -> Iterator[bool]:
    return (is_complete(graph.nodes[key], study) for key in graph.runs[run].values())


def _asha(cfg: EarlyStoppingConfig, graph: StageGraph) -> ASHAScheduler:
    num_steps = (getattr(node.config, "train", None) for node in graph.nodes.values())
    most = sum(train.num_steps for train in num_steps if train)
    return ASHAScheduler(
        time_attr="step",
        metric=cfg.metric,
        mode=cfg.mode,
        grace_period=cfg.grace_steps,
        reduction_factor=cfg.reduction_factor,
        max_t=max(most, cfg.grace_steps),
        stop_last_trials=False,
    )


# ---------------------------------------------------------------------------------------------
# In the trial's process


def _run_trial(
    config: dict[str, Any], graph: StageGraph, study: RunDir, metric: str | None
) -> None:
    steps_before = 0
    for key in graph.runs[config["run"]].values():
        node = graph.nodes[key]
        if is_complete(node, study):
            continue
        stage = start(node, study)
        steps_before += _report_while(stage, stage_of(node, study), metric, steps_before)
        try:
            error = error_of(stage, node)
        except ConfigError as config_error:
            error = str(config_error)
        if error:
            tune.report({"error": f"{node}: {error}"})
            return
    tune.report({"is_complete": True})


def _report_while(
    running: ray.ObjectRef, stage: StageDir, metric: str | None, steps_before: int
) -> int:
    """Reports a stage's metric while it runs. Returns the last step that had it."""
    step, is_last = 0, False
    while not is_last:
        ready, _ = ray.wait([running], timeout=_POLL_S)
        is_last = bool(ready)
        for record in read_metrics(stage.uri) if metric else ():
            if metric in record and record["step"] > step:
                step = int(record["step"])
                tune.report({"step": steps_before + step, metric: record[metric]})
    return step


# ---------------------------------------------------------------------------------------------
# In the driver


class _Teller(tune.Callback):
    """A line per trial, and now and then how far the running ones are. Feeds the watchdog."""

    def __init__(
        self,
        graph: StageGraph,
        study: RunDir,
        num_trials: int,
        watchdog: Watchdog,
        metric: str | None,
    ) -> None:
        self._graph, self._study, self._watchdog = graph, study, watchdog
        self._num_trials, self._metric = num_trials, metric
        self.failures: dict[str, str] = {}
        """Run -> why it did not get to its end."""
        self._began_at: dict[str, float] = {}
        self._num_done = 0
        self._told_at, self._told = time.monotonic(), ""

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """See ``tune.Callback``."""
        self._began_at.setdefault(trial.config["run"], time.monotonic())

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        """See ``tune.Callback``."""
        result = trial.last_result
        if "error" in result:
            self.failures[trial.config["run"]] = result["error"]
            self._tell(trial, f"FAILED: {result['error']}")
        elif "is_complete" in result:
            self._tell(trial, "done")
        else:
            mark = {name: result[name] for name in ("step", self._metric) if name in result}
            storage.write_text(
                _stop_mark(self._study, trial.config["run"]), strict_json.dumps(mark)
            )
            self._tell(trial, f"{STOPPED_EARLY} at step {result.get('step')}")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """See ``tune.Callback``."""
        self.failures[trial.config["run"]] = error = "its process died, too often"
        self._tell(trial, f"FAILED: {error}")

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """See ``tune.Callback``."""
        running = [trial.config["run"] for trial in trials if trial.status == Trial.RUNNING]
        self._watchdog.check(lambda: self._stages(running))
        if time.monotonic() - self._told_at > _TOLD_EVERY_S:
            self._told_at = time.monotonic()
            lines = (
                f"  {words}: {line}"
                for words, stage in self._stages(running).items()
                if (line := last_progress_line(stage))
            )
            if (text := "\n".join(lines)) and text != self._told:
                self._told = text
                print(text, flush=True)

    def _tell(self, trial: Trial, how: str) -> None:
        run = trial.config["run"]
        self._num_done += 1
        took = duration(time.monotonic() - self._began_at.get(run, time.monotonic()))
        print(f"[{self._num_done}/{self._num_trials}] {run}: {how}, after {took}", flush=True)

    def _stages(self, runs: Iterable[str]) -> Mapping[str, StageDir]:
        """The stage that each of these trials is at."""
        at: dict[str, StageDir] = {}
        for run in runs:
            for key in self._graph.runs[run].values():
                node: StageNode = self._graph.nodes[key]
                if not storage.is_file(stage_of(node, self._study).path("summary.json")):
                    at[f"{node.name} of {run}"] = stage_of(node, self._study)
                    break
        return at
