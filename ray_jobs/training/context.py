"""Presents a training worker of Ray Train to the loop as a TrainContext."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device

from lafp import storage
from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatch, MicroBatchLayout, MicroBatchReader, read_ahead
from lafp.train.checkpoints import Checkpoints
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.context import to_clip_batches
from lafp.train.notice import Notice
from lafp.types import ClipBatch
from ray_jobs.training.ingest import ray_micro_batches
from ray_jobs.training.notices import Notices

MIN_READ_AHEAD, READ_AHEAD_BYTES = 4, 64 << 20
"""Micro-batches to read ahead in mode ``direct``: so many, or more if they fit into the bytes."""


def read_in_threads(
    layout: MicroBatchLayout, start_step: int, ingest: IngestConfig
) -> Iterator[MicroBatch]:
    """Yields the micro-batches of every step from ``start_step`` on, read by this process.

    The iterator does not end.
    """
    reader = MicroBatchReader(layout, ingest.cache_bytes, ingest.num_readers)
    depth = max(MIN_READ_AHEAD, READ_AHEAD_BYTES * layout.num_rounds // layout.step_num_bytes)
    return read_ahead(reader.read_from(start_step), depth)


class RayTrainContext:
    """See ``TrainContext``.

    Args:
        cfg: The training config, with ingest mode and number of steps.
        uri: The stage's folder.
        coordinator: The stop coordinator that ``stopped_by_sigterm`` yields.
    """

    def __init__(self, cfg: TrainConfig, uri: str, coordinator: Any) -> None:
        self.uri = uri
        self._cfg = cfg
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self._is_first_of_node = context.get_local_rank() == 0
        self.device = get_device() if cfg.use_gpu else torch.device("cpu")
        if cfg.use_gpu:  # collectives of Python objects use the current device
            torch.cuda.set_device(self.device)
        self._notices = Notices(coordinator, self.rank, self.world_size)
        self.checkpoints = Checkpoints(uri, cfg.num_checkpoints_to_keep, self.rank, self.world_size)

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
        if not storage.is_s3(uri):
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
        dist.barrier()
        try:
            yield folder
            # The others may still read when the first worker of the node has loaded its part.
            dist.barrier()
        finally:
            if self._is_first_of_node:
                shutil.rmtree(folder, ignore_errors=True)
