"""Where training runs, seen from the loop: ranks, clips, checkpoints. The launcher hides behind."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch

from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatch, MicroBatchPlan, MicroBatchReader
from lafp.train.checkpoints import Checkpoints
from lafp.train.notice import Notice
from lafp.types import ClipBatch


class TrainContext(Protocol):
    """What the loop asks of its launcher."""

    rank: int
    world_size: int
    device: torch.device
    uri: str
    """The stage's folder: metrics and the finished model go there."""
    checkpoints: Checkpoints
    """Where the run's checkpoints are stored and found."""

    def restored(self) -> AbstractContextManager[Path | None]:
        """A local folder with the last checkpoint, within the block; None at a run's begin."""
        ...

    def clips(
        self, demands: Mapping[str, ClipDemand], num_rounds: int, start_step: int
    ) -> Iterator[dict[str, ClipBatch]]:
        """This rank's micro-batches, ``num_rounds`` per step, endless, on the host."""
        ...

    def notice(self, step: int) -> Notice:
        """What is due after ``step`` steps. All ranks ask after every step.

        All get the same answer, without waiting for a device.

        Raises:
            StorageError: The last checkpoint could not be stored.
        """
        ...


class LocalContext:
    """A helper for tests, benchmarks and scripts: trains in one process, without Ray.

    The jobs use ``RayTrainContext``. This context reads shards in the loop itself, so that a device
    waits for the decoder, and keeps the last checkpoint in the stage's folder. A script trains so::

        train(cfg.train, LamTask(cfg, shards, labeled), LocalContext("runs/debug/lam"))

    Args:
        uri: A local folder.
        device: Where the model goes.
        cache_bytes: Decoded frames to keep.
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
        plan = MicroBatchPlan(demands=demands, rank=0, world_size=1, num_rounds=num_rounds)
        reader = MicroBatchReader(plan, self._cache_bytes)
        return map(to_clip_batches, reader.read_from(start_step))

    def notice(self, step: int) -> Notice:
        """See ``TrainContext``. Nobody asks for anything."""
        self.checkpoints.check()
        return Notice.NONE


def to_clip_batches(batch: MicroBatch) -> dict[str, ClipBatch]:
    """Arrays -> tensors over the same memory, stream by stream."""
    return {
        stream: ClipBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
        for stream, arrays in batch.items()
    }
