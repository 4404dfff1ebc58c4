"""Runs one training job on Ray Train: starts workers, handles failures and shows progress."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from data_pipelines.on_ray.metrics import show_training
from lafp import storage
from lafp.config import ConfigError
from lafp.config.node_labels import label_selector
from lafp.data.randomness import derive_seed
from lafp.objectives.health import signs_of_collapse
from lafp.runs.progress import Progress
from lafp.runs.run_dir import StageDir
from lafp.runs.side_channel import SideChannel, say_on_stderr
from lafp.storage import StorageError
from lafp.storage.json_lines import read_lines
from lafp.train.config import TrainConfig
from lafp.train.loop import StoppedError, train
from lafp.train.metrics.damaged_clips import DAMAGED, DamagedShardsError
from lafp.train.metrics.feeding import advice
from lafp.train.metrics.finite_guard import SKIPPED, NonFiniteLossError
from lafp.train.metrics.log import DAMAGED_FILE, SKIPPED_FILE, read_metrics, read_starts
from lafp.train.notes import read_notes
from lafp.train.task import Task
from ray_jobs.core.cluster import Resources
from ray_jobs.core.failures import FAILURES, FailureLog, FinalConfigError, final, final_of
from ray_jobs.core.job import JobError
from ray_jobs.core.scratch import scratch_folder
from ray_jobs.training.context import RayTrainContext
from ray_jobs.training.ingest import CPUS_PER_READER
from ray_jobs.training.stop import stopped_by_sigterm

ENVIRONMENT = {
    # The controller notices the death or the end of a worker within this time.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A cluster that has to grow first needs longer than the default minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}
HEADLINES = {
    "loss": "loss",
    "probe/r2": "probe R²",
    "val/loss": "held-out loss",
    "val/action_r2_deployed": "held-out action R²",
}
"""Metric -> its name in the progress line, which shows those of these metrics that a task has."""

COUNTED = {
    SKIPPED: ("steps were skipped, as loss or gradients were not finite", SKIPPED_FILE),
    DAMAGED: ("clips could not be read, and others stood in for them", DAMAGED_FILE),
}
"""Metric -> the meaning of a value above zero, and the file that names the steps or clips."""


def resources(cfg: TrainConfig) -> Resources:
    """Returns the resources that a training job holds at the same time."""
    readers = cfg.ingest.num_readers if cfg.ingest.mode == "ray" else 0
    return Resources(
        num_cpus=cfg.num_workers * (_worker_cpus(cfg) + readers * CPUS_PER_READER),
        num_gpus=cfg.num_workers if cfg.use_gpu else 0,
    )


def _worker_cpus(cfg: TrainConfig) -> int:
    """Returns the CPUs of one training worker, which also decodes on them in mode ``direct``."""
    return cfg.ingest.num_readers if cfg.ingest.mode == "direct" else 1


def fit(stage: StageDir, cfg: TrainConfig, build_task: Callable[[], Task]) -> dict[str, Any]:
    """Trains on Ray, from the stage's last checkpoint if there is one, and exports the model.

    Args:
        stage: The folder for checkpoints, metrics and the model.
        cfg: Training config.
        build_task: Builds the task on every worker. It must be picklable, e.g. a
            ``functools.partial`` of a Task class.

    Returns:
        The last value of every metric, and the steps from which the run was resumed.

    Raises:
        ConfigError: A worker found something that the user must correct.
        JobError: The loss is not finite, workers failed more than ``max_failures`` times, or a
            SIGTERM came. After a SIGTERM there is a checkpoint of the step that the message names.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:  # a local cluster is not preempted
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    workers = "1 training worker" if cfg.num_workers == 1 else f"{cfg.num_workers} training workers"
    sys.stderr.write(f"[{stage.name}] starting {workers}\n")
    with (
        _progress(stage, cfg),
        stopped_by_sigterm(stage) as coordinator,
        scratch_folder() as scratch,
    ):
        job = {"cfg": cfg, "build_task": build_task, "uri": stage.uri, "coordinator": coordinator}
        try:
            trainer = _trainer(stage, cfg, job, scratch)
            outcome: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            if found := final_of(error):
                kind = ConfigError if isinstance(found, FinalConfigError) else JobError
                raise kind(str(found)) from None
            raise JobError(  # Ray's text holds the workers' tracebacks
                f"{stage.name}: {error}\n"
                "Run the same command again to resume from the last checkpoint."
            ) from error
    if "stopped" in outcome:
        raise JobError(outcome["stopped"])
    resumed_from = [int(start["step"]) for start in read_starts(stage.uri)[1:]]
    return outcome["metrics"] | {"resumed_from_steps": resumed_from}


def _trainer(stage: StageDir, cfg: TrainConfig, job: dict[str, Any], scratch: str) -> TorchTrainer:
    # Ray's type annotations are those of Train's first version, hence the ignores.
    return TorchTrainer(
        _train_worker,  # type: ignore[arg-type]
        train_loop_config=job,
        # Counts and notices are exchanged without waiting for a GPU, so tensors on the CPU too.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if cfg.use_gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=cfg.num_workers,
            use_gpu=cfg.use_gpu,
            resources_per_worker={"CPU": _worker_cpus(cfg)} | ({"GPU": 1} if cfg.use_gpu else {}),
            label_selector=label_selector(cfg.node_labels) or None,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=cfg.max_failures),
            callbacks=[FailureLog(stage.uri)],  # type: ignore[list-item]
        ),
    )


def _train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Runs on every Ray Train worker.

    Errors that end all workers alike are returned. Errors that a single worker may meet are raised,
    so that Ray Train ends the other workers, which wait for it.
    """
    cfg: TrainConfig = job["cfg"]
    storage.be_patient()
    # Not by the rank, so that all workers begin with equal models.
    torch.manual_seed(derive_seed(cfg.seed, "init"))
    try:
        context = RayTrainContext(cfg, job["uri"], job["coordinator"])
        return {"metrics": train(cfg, job["build_task"](), context)}
    except (NonFiniteLossError, DamagedShardsError, StoppedError) as error:
        return {"stopped": str(error)}
    except Exception as error:
        if found := final(error):
            raise found from error
        raise


@contextmanager
def _progress(stage: StageDir, cfg: TrainConfig) -> Iterator[None]:
    """Shows steps, loss and time left, read from the stage's files while training runs."""
    # Failures of an earlier command must not be told as those of this one.
    storage.delete(stage.path(FAILURES))
    follower = _Follower(stage, cfg)
    stop = threading.Event()
    # Every look is several requests to S3.
    interval_s = 10.0 if storage.is_s3(stage.uri) else 1.0
    channel = SideChannel(f"[{stage.name}] progress", follower.say)

    def show() -> None:
        is_last = False
        while not is_last:
            is_last = stop.wait(interval_s)
            # If storage fails, there is nothing new to show; the workers themselves wait for it.
            with channel.guarded(), suppress(StorageError):
                follower.look()
        follower.end()

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Follower:
    """Reads a stage's files again and again, and prints what is new in them."""

    def __init__(self, stage: StageDir, cfg: TrainConfig) -> None:
        self._stage, self._num_steps = stage, cfg.num_steps
        self._num_readers = cfg.num_workers * cfg.ingest.num_readers
        self._num_starts = len(read_starts(stage.uri))
        self._num_notes = len(read_notes(stage.uri))
        self._progress: Progress | None = None
        self._shown_step = -1.0
        self._said: set[str] = set()

    def look(self) -> None:
        """Prints what is new since the last look."""
        stage = self._stage
        starts, records = read_starts(stage.uri), read_metrics(stage.uri)
        notes = read_notes(stage.uri)
        for note in notes[self._num_notes :]:
            self._num_notes += 1
            self.say(f"[{stage.name}] {note['text']}")
        if len(starts) > self._num_starts:
            self._num_starts, start_step = len(starts), int(starts[-1]["step"])
            if self._num_starts > 1:
                self.say(f"{_last_failure(stage)}resuming from step {start_step}")
            self._progress = Progress(stage.name, self._num_steps, "steps")
            self._progress.found(start_step)
        if self._progress and records:
            latest = {name: value for record in records for name, value in record.items()}
            if latest["step"] != self._shown_step:
                self._shown_step = latest["step"]
                self._progress.update(int(self._shown_step), _headline(latest))
                show_training(latest, stage.uri.removesuffix(stage.name), stage.name)
                for line in _remarks(stage, records, self._num_readers, self._said):
                    self._progress.say(line)

    def say(self, line: str) -> None:
        """Prints a line, above the live progress line if there is one."""
        (self._progress.say if self._progress else say_on_stderr)(line)

    def end(self) -> None:
        """Ends the live progress line."""
        if self._progress:
            self._progress.__exit__()


def _last_failure(stage: StageDir) -> str:
    where = f"[{stage.name}] "
    if not (failures := read_lines(stage.path(FAILURES))):
        return where
    return f"{where}worker {failures[-1]['rank']} failed: {failures[-1]['error']}\n{where}"


def _remarks(
    stage: StageDir, records: Sequence[Mapping[str, float]], num_readers: int, said: set[str]
) -> Iterator[str]:
    """Yields each kind of remark once: skipped steps, damaged clips, signs of a collapsed LAM.

    Once it also says how many cores decoding needs, in a line that does not look like progress.
    """
    for record in records:
        for name, (words, file) in COUNTED.items():
            if record.get(name) and name not in said:
                said.add(name)
                yield (
                    f"[{stage.name}] step {record['step']:.0f}: {words}. They are counted, and "
                    f"listed in {stage.path(file)}."
                )
        for sign, words in signs_of_collapse(record).items():
            if sign not in said:
                said.add(sign)
                yield f"[{stage.name}] step {record['step']:.0f}: {words}"
    if len(records) > 1 and "advice" not in said:  # the first record includes the warm-up
        said.add("advice")
        if line := advice(records[-1], num_readers):
            yield f"{stage.name}: {line}"


def _headline(metrics: dict[str, float]) -> str:
    shown = [f"{words} {metrics[name]:.3g}" for name, words in HEADLINES.items() if name in metrics]
    return "  ".join(shown)
