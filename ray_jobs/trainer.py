"""One training job on Ray Train: workers, checkpoints, failures, progress."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from ray.train import (
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from data_pipelines.ray_metrics import show_training
from lafp import storage, strict_json
from lafp.config import ConfigError
from lafp.data.randomness import derive_seed
from lafp.eval.collapse import signs_of_collapse
from lafp.node_labels import label_selector
from lafp.progress import Progress
from lafp.run_dir import StageDir
from lafp.storage import StorageError
from lafp.train.config import TrainConfig
from lafp.train.damaged_clips import DAMAGED, DamagedShardsError
from lafp.train.feeding import advice
from lafp.train.loop import StoppedError, train
from lafp.train.metrics import (
    DAMAGED_FILE,
    SKIPPED,
    SKIPPED_FILE,
    NonFiniteLossError,
    read_metrics,
    read_starts,
)
from lafp.train.task import Task
from ray_jobs.cluster import Demand
from ray_jobs.job import JobError
from ray_jobs.ray_context import RayTrainContext
from ray_jobs.ray_ingest import CPUS_PER_READER
from ray_jobs.stop_notice import stopped_by_sigterm

ENVIRONMENT = {
    # How soon the controller sees deaths and the end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A cluster that has to grow first needs longer than the default minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}
RAY_TRAIN = "ray_train"
"""Ray Train's own folder. Our checkpoints do not go through it: see ``lafp.train.checkpoints``."""
FAILURES = "failures.jsonl"
HEADLINES = ("loss", "probe/r2", "val/loss", "val/action_r2_deployed")
"""Metrics that the progress line shows, as far as a task has them."""

COUNTED = {
    SKIPPED: ("steps were skipped, as loss or gradients were not finite", SKIPPED_FILE),
    DAMAGED: ("clips could not be read, and others stood in for them", DAMAGED_FILE),
}
"""Metric -> what it means that it is not zero, and the file that names steps or clips."""


def demand(cfg: TrainConfig) -> Demand:
    """What a training job holds at the same time."""
    readers = cfg.ingest.num_readers if cfg.ingest.mode == "ray" else 0
    return Demand(
        num_cpus=cfg.num_workers * (_worker_cpus(cfg) + readers * CPUS_PER_READER),
        num_gpus=cfg.num_workers if cfg.use_gpu else 0,
    )


def _worker_cpus(cfg: TrainConfig) -> int:
    """Of one training worker; in mode ``direct`` it decodes on all of them."""
    return cfg.ingest.num_readers if cfg.ingest.mode == "direct" else 1


def fit(stage: StageDir, cfg: TrainConfig, build_task: Callable[[], Task]) -> dict[str, Any]:
    """Trains on Ray, from the stage's last checkpoint if there is one, and exports the model.

    Args:
        stage: Where checkpoints, metrics and the model go.
        cfg: Training config.
        build_task: Called on every worker; picklable (a ``functools.partial`` of a Task class).

    Returns:
        The last value of every metric, and the steps that the run was resumed from.

    Raises:
        ConfigError: A worker found something that its user must mend.
        JobError: The loss is not finite, workers failed more than ``max_failures`` times, or a
            SIGTERM came: then there is a checkpoint of the step that the message names.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:  # nobody preempts this machine
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    workers = "1 training worker" if cfg.num_workers == 1 else f"{cfg.num_workers} training workers"
    sys.stderr.write(f"[{stage.name}] starting {workers}\n")
    with _progress(stage, cfg), stopped_by_sigterm(stage) as board:
        job = {"cfg": cfg, "build_task": build_task, "uri": stage.uri, "board": board}
        try:
            outcome: dict[str, Any] = _trainer(stage, cfg, job).fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            raise JobError(  # Ray's text holds the workers' tracebacks
                f"{stage.name}: {error}\n"
                "Run the same command again to resume from the last checkpoint."
            ) from error
    if "config_error" in outcome:
        raise ConfigError(outcome["config_error"])
    if "stopped" in outcome:
        raise JobError(outcome["stopped"])
    resumed_from = [int(start["step"]) for start in read_starts(stage.uri)[1:]]
    return outcome["metrics"] | {"resumed_from_steps": resumed_from}


def _trainer(stage: StageDir, cfg: TrainConfig, job: dict[str, Any]) -> TorchTrainer:
    filesystem, path = storage.pyarrow_filesystem(stage.uri)
    # The annotations that Ray ships are those of Train's first version, hence the ignores.
    return TorchTrainer(
        _train_worker,  # type: ignore[arg-type]
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if cfg.use_gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=cfg.num_workers,
            use_gpu=cfg.use_gpu,
            resources_per_worker={"CPU": _worker_cpus(cfg)} | ({"GPU": 1} if cfg.use_gpu else {}),
            label_selector=label_selector(cfg.node_labels) or None,
        ),
        run_config=RunConfig(
            name=RAY_TRAIN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=cfg.max_failures),
            callbacks=[FailureLog(stage.path(FAILURES))],  # type: ignore[list-item]
        ),
    )


def _train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Runs on every Ray Train worker.

    What cannot succeed by trying again is returned, not raised: Ray Train retries any exception.
    """
    cfg: TrainConfig = job["cfg"]
    storage.be_patient()
    torch.manual_seed(derive_seed(cfg.seed, "init"))
    try:
        context = RayTrainContext(cfg, job["uri"], job["board"])
        return {"metrics": train(cfg, job["build_task"](), context)}
    except ConfigError as error:
        return {"config_error": str(error)}
    except (NonFiniteLossError, DamagedShardsError, StoppedError) as error:
        return {"stopped": str(error)}


class FailureLog(UserCallback):
    """Writes down why workers failed, in the controller's process, where the driver can read it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lines = ""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """See ``UserCallback``."""
        for rank, error in worker_exceptions.items():
            first_line = (str(error).strip() or repr(error)).splitlines()[0]
            self._lines += strict_json.dumps({"rank": rank, "error": first_line}) + "\n"
        with suppress(StorageError):  # which may be why the worker has failed
            storage.write_text(self._uri, self._lines)


@contextmanager
def _progress(stage: StageDir, cfg: TrainConfig) -> Iterator[None]:
    """Shows steps, loss and time left, read from the stage's files while training runs."""
    storage.delete(stage.path(FAILURES))
    stop = threading.Event()
    interval_s = 10.0 if storage.is_s3(stage.uri) else 1.0
    num_starts = len(read_starts(stage.uri))
    readers = cfg.num_workers * cfg.ingest.num_readers

    def show() -> None:
        nonlocal num_starts
        progress: Progress | None = None
        shown_step = -1.0
        said: set[str] = set()
        is_last = False
        while not is_last:
            is_last = stop.wait(interval_s)
            try:
                starts, records = read_starts(stage.uri), read_metrics(stage.uri)
                failure = _last_failure(stage)
            except StorageError:  # the workers wait for it, so there is nothing new to show
                continue
            if len(starts) > num_starts:
                num_starts, start_step = len(starts), int(starts[-1]["step"])
                if num_starts > 1:
                    sys.stderr.write(f"{failure}resuming from step {start_step}\n")
                progress = Progress(stage.name, cfg.num_steps, "steps")
                progress.update(start_step)
            if progress and records:
                latest = {name: value for record in records for name, value in record.items()}
                if latest["step"] != shown_step:
                    shown_step = latest["step"]
                    progress.update(int(shown_step), _headline(latest))
                    show_training(latest, stage.uri.removesuffix(stage.name), stage.name)
                    for line in _remarks(stage, records, readers, said):
                        progress.say(line)
        if progress:
            progress.__exit__()

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _last_failure(stage: StageDir) -> str:
    if not storage.is_file(stage.path(FAILURES)):
        return f"[{stage.name}] "
    failure = json.loads(storage.read_text(stage.path(FAILURES)).splitlines()[-1])
    return f"[{stage.name}] worker {failure['rank']} failed: {failure['error']}\n[{stage.name}] "


def _remarks(
    stage: StageDir, records: Sequence[Mapping[str, float]], num_readers: int, said: set[str]
) -> Iterator[str]:
    """Says, once each, at which record steps began to be skipped or a LAM to look collapsed.

    And once, without the mark of a progress line, how many cores decoding needs.
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
    if len(records) > 1 and "advice" not in said:  # the first one warmed up
        said.add("advice")
        if line := advice(records[-1], num_readers):
            yield f"{stage.name}: {line}"


def _headline(metrics: dict[str, float]) -> str:
    shown = [f"{name} {metrics[name]:.3g}" for name in HEADLINES if name in metrics]
    return "  ".join(shown)
