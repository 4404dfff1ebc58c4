"""Defines what the loop sees of its launcher: ranks, clips and checkpoints."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch

from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatch, MicroBatchLayout, MicroBatchReader
from lafp.train.checkpoints import Checkpoints
from lafp.train.notice import Notice
from lafp.types import ClipBatch


class TrainContext(Protocol):
    """Everything that the loop needs from its launcher."""

    rank: int
    world_size: int
    device: torch.device
    uri: str
    """The stage's folder: metrics and the finished model go there."""
    checkpoints: Checkpoints
    """Stores and finds the run's checkpoints."""

    def restored(self) -> AbstractContextManager[Path | None]:
        """Yields a local folder with the last checkpoint; None if there is no checkpoint yet."""
        ...

    def clips(
        self, demands: Mapping[str, ClipDemand], num_rounds: int, start_step: int
    ) -> Iterator[dict[str, ClipBatch]]:
        """Yields this rank's micro-batches, ``num_rounds`` per step, without end, on the host."""
        ...

    def notice(self, step: int) -> Notice:
        """Says whether to save or stop after ``step`` steps. All ranks ask after every step.

        All ranks get the same answer, without waiting for a device.

        Raises:
            StorageError: The last checkpoint could not be stored.
        """
        ...


class LocalContext:
    """A helper for tests, benchmarks and scripts: trains in one process, without Ray.

    The jobs use ``WorkerContext``. This context reads shards in the loop itself, so that a device
    waits for the video decoder, and keeps the last checkpoint in the stage's folder. A script
    trains so::

        train(cfg.train, LamTask(cfg, shards, labeled), LocalContext("runs/debug/lam"))

    Args:
        uri: A local folder.
        device: Device of the model.
        cache_bytes: Bytes of decoded frames to keep.
    """

    rank, world_size = 0, 1

    def __init__(self, uri: str, device: str = "cpu", cache_bytes: int = 1 << 30) -> None:
        self.uri = uri
        self.device = torch.device(device)
        self._cache_bytes = cache_bytes
        self.checkpoints = Checkpoints(uri, num_to_keep=1)

    @contextmanager
    def restored(self) -> Iterator[Path | None]:
        """See ``TrainContext``."""
        with self.checkpoints.restored() as folder:
            yield folder

    def clips(
        self, demands: Mapping[str, ClipDemand], num_rounds: int, start_step: int
    ) -> Iterator[dict[str, ClipBatch]]:
        """See ``TrainContext``."""
        layout = MicroBatchLayout(demands=demands, rank=0, world_size=1, num_rounds=num_rounds)
        reader = MicroBatchReader(layout, self._cache_bytes)
        return map(to_clip_batches, reader.read_from(start_step))

    def notice(self, step: int) -> Notice:
        """See ``TrainContext``. Nothing is ever requested."""
        self.checkpoints.check()
        return Notice.NONE


def to_clip_batches(batch: MicroBatch) -> dict[str, ClipBatch]:
    """Converts the arrays of each stream to tensors over the same memory."""
    return {
        stream: ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        for stream, arrays in batch.items()
    }
