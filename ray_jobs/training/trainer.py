"""Runs one training job on Ray: chooses the launcher of its workers, and tells how it ended."""

import sys
from collections.abc import Callable
from typing import Any

from lafp.config import ConfigError
from lafp.runs.run_dir import StageDir
from lafp.train.config import TrainConfig
from lafp.train.metrics.log import read_starts
from lafp.train.task import Task
from ray_jobs.core.cluster import is_own_ray
from ray_jobs.core.job import JobError
from ray_jobs.training.failures import FinalConfigError, FinalError, WorkersFailedError
from ray_jobs.training.progress import shown_progress
from ray_jobs.training.resources import resources, worker_cpus
from ray_jobs.training.stop import stopped_by_sigterm
from ray_jobs.training.worker import WorkerJob
from ray_jobs.training.worker_task import train_in_task


def fit(stage: StageDir, cfg: TrainConfig, build_task: Callable[[], Task]) -> dict[str, Any]:
    """Trains on Ray, from the stage's last checkpoint if there is one, and saves the model.

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
    if is_own_ray() and (cfg.node_labels or cfg.ingest.node_labels):
        raise ConfigError(
            "train.node_labels: the Ray that this job has started has one node, without labels. "
            "Leave them out, or set RAY_ADDRESS to a cluster whose nodes have them."
        )
    workers = "1 training worker" if cfg.num_workers == 1 else f"{cfg.num_workers} training workers"
    sys.stderr.write(f"[{stage.name}] starting {workers}, {resources(cfg).num_cpus:g} CPUs\n")
    with shown_progress(stage, cfg), stopped_by_sigterm(stage) as coordinator:
        job = WorkerJob(cfg, build_task, stage.uri, coordinator)
        try:
            outcome = _launch(job)
        except FinalConfigError as error:
            raise ConfigError(str(error)) from None
        except FinalError as error:
            raise JobError(str(error)) from None
        except WorkersFailedError as error:
            raise JobError(
                f"{stage.name}: {error}\n"
                "Run the same command again to resume from the last checkpoint."
            ) from error
    if "stopped" in outcome:
        raise JobError(outcome["stopped"])
    # The first start is no resume.
    resumed_from = [int(start["step"]) for start in read_starts(stage.uri)[1:]]
    return outcome["metrics"] | {"resumed_from_steps": resumed_from}


def _launch(job: WorkerJob) -> dict[str, Any]:
    if job.cfg.num_workers == 1 and is_own_ray():
        return train_in_task(job, worker_cpus(job.cfg))
    # Ray Train takes two seconds to import in the driver and in every worker.
    from ray_jobs.training.worker_group import train_in_group

    return train_in_group(job, worker_cpus(job.cfg))
