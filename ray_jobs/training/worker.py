"""Runs the training loop in a worker: what the worker tells the loop, and what it returns."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lafp import storage
from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatch, MicroBatchLayout, MicroBatchReader, read_ahead
from lafp.data.randomness import derive_seed
from lafp.train.checkpoints import Checkpoints
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.context import to_clip_batches
from lafp.train.loop import StoppedError, train
from lafp.train.metrics.damaged_clips import DamagedShardsError
from lafp.train.metrics.finite_guard import NonFiniteLossError
from lafp.train.notice import Notice
from lafp.train.task import Task
from lafp.types import ClipBatch
from ray_jobs.training.failures import final
from ray_jobs.training.notices import Notices

MIN_READ_AHEAD, READ_AHEAD_BYTES = 4, 64 << 20
"""Number of micro-batches to read ahead in mode ``direct``, or more if they fit into the bytes."""


def read_in_threads(
    layout: MicroBatchLayout, start_step: int, ingest: IngestConfig
) -> Iterator[MicroBatch]:
    """Yields the micro-batches of every step from ``start_step`` on, read by this process.

    The iterator does not end.
    """
    reader = MicroBatchReader(layout, ingest.cache_bytes, ingest.num_readers)
    depth = max(MIN_READ_AHEAD, READ_AHEAD_BYTES * layout.num_rounds // layout.step_num_bytes)
    return read_ahead(reader.read_from(start_step), depth)


@dataclass(frozen=True)
class WorkerJob:
    """Says what a worker trains. It must be picklable."""

    cfg: TrainConfig
    build_task: Callable[[], Task]
    uri: str
    """The stage's folder."""
    is_stop_asked: Callable[[], bool]
    """Says in the worker whether the driver asks for a stop."""


@dataclass(frozen=True)
class Place:
    """The place of a worker among those that train together."""

    rank: int
    world_size: int
    local_rank: int
    """Rank among the workers of the same node."""
    device: torch.device


@contextmanager
def as_a_worker(num_cpus: int) -> Iterator[None]:
    """Sets what a worker needs for the whole process, and puts it back for the next training."""
    before = torch.get_num_threads()
    # Ray sets the variable for the task's CPUs unless the user has. Without Ray the user may have.
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(wanted) if wanted.isdecimal() else num_cpus)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        storage.be_patient(0.0)


def train_in_worker(job: WorkerJob, place: Place) -> dict[str, Any]:
    """Trains in this process, which one of the launchers has started.

    Returns:
        The last metrics, as ``metrics``; or a message for the user, as ``stopped`` where a stop was
        asked for, as ``failed`` for an error that ends all workers alike. Errors that a single
        worker may meet are raised, so that the launcher ends the other workers, which wait for it.
    """
    storage.be_patient()
    # Not by the rank, so that all workers begin with equal models.
    torch.manual_seed(derive_seed(job.cfg.seed, "init"))
    context = WorkerContext(job, place)
    try:
        return {"metrics": train(job.cfg, job.build_task(), context)}
    except StoppedError as error:
        return {"stopped": str(error)}
    except (NonFiniteLossError, DamagedShardsError) as error:
        return {"failed": str(error)}
    except Exception as error:
        if (found := final(error)) is None:
            raise
        try:
            raise found from error
        finally:
            del found  # a cycle with this frame, which would keep the whole training in memory
    finally:
        # Not while the next attempt looks for the last whole checkpoint, perhaps in this process.
        context.checkpoints.settle()


class WorkerContext:
    """See ``TrainContext``.

    Args:
        job: The worker's job.
        place: The worker's place.
    """

    def __init__(self, job: WorkerJob, place: Place) -> None:
        cfg, self.uri = job.cfg, job.uri
        self._cfg = cfg
        self.rank, self.world_size = place.rank, place.world_size
        self._is_first_of_node = place.local_rank == 0
        self.device = place.device
        if cfg.use_gpu:  # collectives of Python objects use the current device
            torch.cuda.set_device(self.device)
        self._notices = Notices(job.is_stop_asked, self.rank, self.world_size)
        self.checkpoints = Checkpoints(
            job.uri, cfg.num_checkpoints_to_keep, self.rank, self.world_size
        )

    def notice(self, step: int) -> Notice:
        """See ``TrainContext``."""
        self.checkpoints.check()
        return self._notices(step)

    @contextmanager
    def restored(self) -> Iterator[Path | None]:
        """See ``TrainContext``."""
        with self.checkpoints.restored(self._fetched) as folder:
            yield folder

    def clips(
        self, demands: Mapping[str, ClipDemand], num_rounds: int, start_step: int
    ) -> Iterator[dict[str, ClipBatch]]:
        """See ``TrainContext``. Ends at the config's last step."""
        ingest = self._cfg.ingest
        layout = MicroBatchLayout(
            demands=demands, rank=self.rank, world_size=self.world_size, num_rounds=num_rounds
        )
        # Arrays in the object store are read-only, and no code writes into clips.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        if start_step >= self._cfg.num_steps:
            return iter(())
        if ingest.mode == "direct":
            return map(to_clip_batches, read_in_threads(layout, start_step, ingest))
        from ray_jobs.training.ingest import (
            ray_micro_batches,  # with Ray Data, which takes a second
        )

        batches = ray_micro_batches(
            layout,
            start_step,
            self._cfg.num_steps,
            ingest.num_readers,
            ingest.cache_bytes,
            ingest.node_labels,
        )
        return map(to_clip_batches, batches)

    @contextmanager
    def _fetched(self, uri: str) -> Iterator[Path]:
        """Yields the files of a checkpoint on the local disk. A node's workers share one download.

        All ranks call it. If one rank alone fails here, the others wait until Ray Train ends them.
        """
        if not storage.is_remote(uri):
            yield storage.path_of(uri)
            return
        # The name is the same after a restart, so files that a killed worker left are deleted.
        name = f"lafp-restored-{sha256(uri.encode()).hexdigest()[:12]}"
        folder = Path(tempfile.gettempdir(), name)
        if self._is_first_of_node:
            shutil.rmtree(folder, ignore_errors=True)
            # Parts of a checkpoint are unpickled, so no other user of the machine may write here.
            folder.mkdir(mode=0o700)
            storage.download_folder(uri, folder)
        self._wait_for_all()
        try:
            yield folder
            # The others may still read when the first worker of the node has loaded its part.
            self._wait_for_all()
        finally:
            if self._is_first_of_node:
                shutil.rmtree(folder, ignore_errors=True)

    def _wait_for_all(self) -> None:
        if self.world_size > 1:
            dist.barrier()
