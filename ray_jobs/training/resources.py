"""Says what a training job needs from Ray."""

from typing import TYPE_CHECKING

from ray_jobs.core.cluster import Resources

if TYPE_CHECKING:  # its module imports torch, and readers need it no more than the driver does
    from lafp.train.config import TrainConfig

CPUS_PER_READER = 1
"""CPUs of a reader. Ray Data's read tasks, with which it fuses the readers, also take one CPU."""


def resources(cfg: "TrainConfig") -> Resources:
    """Returns the resources that a training job holds at the same time."""
    readers = cfg.ingest.num_readers if cfg.ingest.mode == "ray" else 0
    return Resources(
        num_cpus=cfg.num_workers * (worker_cpus(cfg) + readers * CPUS_PER_READER),
        num_gpus=cfg.num_workers if cfg.use_gpu else 0,
    )


def can_be_alone(cfg: "TrainConfig") -> bool:
    """Says whether nothing of Ray is needed: the only worker reads the shards itself."""
    return cfg.num_workers == 1 and cfg.ingest.mode == "direct"


def worker_cpus(cfg: "TrainConfig") -> int:
    """Returns the CPUs of one training worker, which also decodes on them in mode ``direct``."""
    return cfg.ingest.num_readers if cfg.ingest.mode == "direct" else 1
