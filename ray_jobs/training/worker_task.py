"""Launches the only worker of a training as a Ray task.

Ray Train starts five more processes for a training, which takes 13 s of CPU time. A worker that is
alone on a Ray that the job has started itself needs none of them. Ray also keeps the process of a
task for the next one, so that only the first stage of a pipeline or study imports torch.
"""

import gc
import os
from collections.abc import Sequence
from typing import Any

import ray
import torch

from ray_jobs.core.cluster import dead_ray_processes
from ray_jobs.training.failures import with_restarts
from ray_jobs.training.notices import sigterm_noted
from ray_jobs.training.worker import Place, WorkerJob, as_a_worker, train_in_worker


def train_in_task(job: WorkerJob, num_cpus: int) -> dict[str, Any]:
    """Trains on one worker, which starts again when it fails.

    Returns:
        See ``train_in_worker``.

    Raises:
        FinalError: No retry can succeed.
        RayError: Ray itself has died.
        WorkersFailedError: The worker failed more than ``max_failures`` times.
    """
    cfg = job.cfg
    # Such a process ends with its task, because it would keep the memory of its GPU, and what
    # DeepSpeed changes in torch.
    is_last = cfg.use_gpu or cfg.engine.name != "ddp"
    remote = ray.remote(max_calls=1) if is_last else ray.remote
    # No retries by Ray: each failure is logged first, and some cannot be mended by a retry.
    task = remote(_train).options(
        name="train", num_cpus=num_cpus, num_gpus=1 if cfg.use_gpu else 0, max_retries=0
    )

    def attempt() -> dict[str, Any]:
        trained = task.remote(job, num_cpus)
        try:
            outcome: dict[str, Any] = ray.get(trained)
            return outcome
        except ray.exceptions.RayError:
            raise
        except BaseException:  # Ctrl-C: the folder has no owner any more, so nobody may write there
            ray.cancel(trained, force=True)
            raise

    kinds = (ray.exceptions.RayError,)
    return with_restarts(job.uri, cfg.max_failures, attempt, kinds, dead_ray_processes)


def _train(job: WorkerJob, num_cpus: int) -> dict[str, Any]:
    gc.collect()  # frees what an earlier training in this process has left in reference cycles
    device = torch.device("cpu")
    if job.cfg.use_gpu:
        device = given_device(ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    with sigterm_noted(), as_a_worker(num_cpus):
        return train_in_worker(job, Place(rank=0, world_size=1, local_rank=0, device=device))


def given_device(gpu_ids: Sequence[int | str], visible: str) -> torch.device:
    """Returns the GPU that Ray has given to this task, as Ray Train does.

    Ray shows a task its own GPU only, but all of them where the variable
    ``RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES`` is set.

    Args:
        gpu_ids: The ids that Ray names, one.
        visible: ``CUDA_VISIBLE_DEVICES``; empty if all GPUs of the node are visible.

    Raises:
        RuntimeError: The GPU is not visible.
    """
    wanted, names = str(gpu_ids[0]), [name.strip() for name in visible.split(",") if name.strip()]
    if not names and wanted.isdecimal():
        return torch.device("cuda", int(wanted))
    if wanted not in names:
        raise RuntimeError(
            f"Ray gave GPU {wanted} to this training, but CUDA_VISIBLE_DEVICES is {visible!r}. "
            "Unset it, and RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES, where Ray is started."
        )
    return torch.device("cuda", names.index(wanted))
