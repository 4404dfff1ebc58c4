"""Runs one training job: chooses the launcher of its workers, and tells how it ended."""

import sys
from collections.abc import Callable
from typing import Any

from lafp.config import ConfigError
from lafp.runs.run_dir import StageDir
from lafp.train.config import TrainConfig
from lafp.train.metrics.log import read_starts
from lafp.train.task import Task
from ray_jobs.core.cluster import is_own_ray, is_ray_wanted
from ray_jobs.core.job import JobError, JobStoppedError
from ray_jobs.training.failures import FinalConfigError, FinalError, WorkersFailedError
from ray_jobs.training.progress import shown_progress
from ray_jobs.training.resources import can_be_alone, resources, worker_cpus
from ray_jobs.training.worker import WorkerJob


def fit(stage: StageDir, cfg: TrainConfig, build_task: Callable[[], Task]) -> dict[str, Any]:
    """Trains from the stage's last checkpoint, or from the start, and saves the model.

    Args:
        stage: The folder for checkpoints, metrics and the model.
        cfg: Training config.
        build_task: Builds the task on every worker. It must be picklable, e.g. a
            ``functools.partial`` of a Task class.

    Returns:
        The last value of every metric, and the steps from which the run was resumed.

    Raises:
        ConfigError: A worker found something that the user must correct.
        JobError: The loss is not finite, or workers failed more than ``max_failures`` times.
        JobStoppedError: A SIGTERM came. There is a checkpoint of the step that the message names.
    """
    is_one_node = is_own_ray() or not is_ray_wanted()
    if is_one_node and (cfg.node_labels or cfg.ingest.node_labels):
        raise ConfigError(
            "train.node_labels: this job runs on one node, without labels. Leave them out, or set "
            "RAY_ADDRESS to a cluster whose nodes have them."
        )
    workers = "1 training worker" if cfg.num_workers == 1 else f"{cfg.num_workers} training workers"
    sys.stderr.write(f"[{stage.name}] starting {workers}, {resources(cfg).num_cpus:g} CPUs\n")
    with shown_progress(stage, cfg):
        try:
            outcome = _launch(stage, cfg, build_task)
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
        raise JobStoppedError(outcome["stopped"])
    if "failed" in outcome:
        raise JobError(outcome["failed"])
    # The first start is no resume.
    resumed_from = [int(start["step"]) for start in read_starts(stage.uri)[1:]]
    return outcome["metrics"] | {"resumed_from_steps": resumed_from}


def _launch(stage: StageDir, cfg: TrainConfig, build_task: Callable[[], Task]) -> dict[str, Any]:
    # Only what is used is imported: Ray may not be installed, and Ray Train takes two seconds in
    # the driver and in every worker.
    if not is_ray_wanted():
        from ray_jobs.training.alone import train_alone

        assert can_be_alone(cfg), "Ray must have been started"
        return train_alone(stage, cfg, build_task)
    from ray_jobs.training.stop import stopped_by_sigterm

    with stopped_by_sigterm(stage) as is_stop_asked:
        job = WorkerJob(cfg, build_task, stage.uri, is_stop_asked)
        if cfg.num_workers == 1 and is_own_ray():
            from ray_jobs.training.worker_task import train_in_task

            return train_in_task(job, worker_cpus(cfg))
        from ray_jobs.training.worker_group import train_in_group

        return train_in_group(job, worker_cpus(cfg))
