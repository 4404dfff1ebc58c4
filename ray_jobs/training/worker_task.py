"""Launches the only worker of a training as a Ray task.

Ray Train starts five more processes for a training, which takes 13 s of CPU time. A worker that is
alone on a Ray that the job has started itself needs none of them. Ray also keeps the process of a
task for the next one, so that only the first stage of a pipeline or study imports torch.
"""

import os
from itertools import count
from typing import Any

import ray
import torch

from lafp.config.node_labels import label_selector
from ray_jobs.training.failures import FailureLog, WorkersFailedError
from ray_jobs.training.notices import sigterm_noted
from ray_jobs.training.worker import Place, WorkerJob, train_in_worker


def train_in_task(job: WorkerJob, num_cpus: int) -> dict[str, Any]:
    """Trains on one worker, which starts again when it fails.

    Returns:
        See ``train_in_worker``.

    Raises:
        FinalError: No retry can succeed.
        WorkersFailedError: The worker failed more than ``max_failures`` times.
    """
    cfg = job.cfg
    # After a task that asks for a GPU so, Ray ends the process, which would else keep GPU memory.
    remote = ray.remote(num_gpus=1) if cfg.use_gpu else ray.remote
    task = remote(_train).options(
        name="train",
        num_cpus=num_cpus,
        max_retries=0,
        label_selector=label_selector(cfg.node_labels) or None,
    )
    log = FailureLog(job.uri)
    for num_failures in count(1):
        try:
            outcome: dict[str, Any] = ray.get(task.remote(job, num_cpus))
            return outcome
        except ray.exceptions.RayError as error:
            log.note({0: error})
            if num_failures > cfg.max_failures:
                raise WorkersFailedError(str(error)) from error  # the text holds the traceback
    raise AssertionError("unreachable")


def _train(job: WorkerJob, num_cpus: int) -> dict[str, Any]:
    # The task before in this process may have had another number of CPUs, for which Ray sets the
    # variable unless the user has.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", num_cpus)))
    device = torch.device("cuda", 0) if job.cfg.use_gpu else torch.device("cpu")
    with sigterm_noted():
        return train_in_worker(job, Place(rank=0, world_size=1, local_rank=0, device=device))
