"""Launches training workers with Ray Train: several of them, or on a cluster."""

import os
from typing import Any

import ray.train
import torch
from ray.train import (
    ControllerError,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from lafp.config.node_labels import label_selector
from lafp.storage.temporary import TemporaryFolder
from ray_jobs.core.cluster import is_own_ray
from ray_jobs.training.failures import FailureLog, FinalError, WorkersFailedError
from ray_jobs.training.notices import sigterm_noted
from ray_jobs.training.worker import Place, WorkerJob, train_in_worker

_ENVIRONMENT = {
    # The controller notices the death or the end of a worker within this time.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # A cluster that has to grow first needs longer than the default minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
}


def train_in_group(job: WorkerJob, cpus_per_worker: int) -> dict[str, Any]:
    """Trains on the config's number of workers, which restart together when one of them fails.

    Returns:
        See ``train_in_worker``.

    Raises:
        FinalError: No retry can succeed.
        WorkersFailedError: Workers failed more than ``max_failures`` times.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if is_own_ray():  # it is not preempted
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Ray would write its state through pyarrow's S3 client, and fail if S3 is down for a moment.
    # lafp never reads that state, and only processes on the driver's node do.
    with TemporaryFolder(ignore_cleanup_errors=True) as scratch:
        try:
            trainer = _trainer(job, cpus_per_worker, scratch)
            outcome: dict[str, Any] = trainer.fit().return_value  # type: ignore[attr-defined]
        except TrainingFailedError as error:
            if isinstance(error, ControllerError):
                failure: Exception = error.controller_failure
                if isinstance(failure, FinalError):
                    raise failure from None
            raise WorkersFailedError(str(error)) from error  # the text holds the tracebacks
    return outcome


def _trainer(job: WorkerJob, cpus_per_worker: int, scratch: str) -> TorchTrainer:
    cfg = job.cfg
    # Ray's type annotations are those of Train's first version, hence the ignores.
    return TorchTrainer(
        _train,  # type: ignore[arg-type]
        train_loop_config={"job": job},
        # Counts and notices are exchanged without waiting for a GPU, so tensors on the CPU too.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if cfg.use_gpu else "gloo"),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=cfg.num_workers,
            use_gpu=cfg.use_gpu,
            resources_per_worker={"CPU": cpus_per_worker} | ({"GPU": 1} if cfg.use_gpu else {}),
            label_selector=label_selector(cfg.node_labels) or None,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=cfg.max_failures),
            callbacks=[_Failures(job.uri)],  # type: ignore[list-item]
        ),
    )


def _train(config: dict[str, WorkerJob]) -> dict[str, Any]:
    """Runs on every worker, in a thread of it."""
    job, context = config["job"], ray.train.get_context()
    actor = ray.get_runtime_context().current_actor
    ray.get(actor.__ray_call__.remote(_note_sigterm))
    place = Place(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=get_device() if job.cfg.use_gpu else torch.device("cpu"),
    )
    return train_in_worker(job, place)


def _note_sigterm(worker: Any) -> None:
    """Notes a SIGTERM for as long as the worker lives. Runs in its main thread."""
    worker.sigterm_noted = sigterm_noted()  # kept, because the block ends when it is deleted
    worker.sigterm_noted.__enter__()


class _Failures(UserCallback):
    """Lets Ray Train's controller, in which it runs, keep the log of failures.

    Ray Train does not retry after an error in this callback, whatever ``max_failures`` says.
    """

    def __init__(self, stage_uri: str) -> None:
        self._log = FailureLog(stage_uri)

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """See ``UserCallback``. Raises FinalError."""
        self._log.note(worker_exceptions)
