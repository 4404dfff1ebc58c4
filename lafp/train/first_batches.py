"""Reads the first batches of a run, for statistics that a model needs before the first step."""

from collections.abc import Iterator, Mapping
from itertools import islice

import torch

from lafp.data.order.demand import ClipDemand
from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader
from lafp.ranks import rank, world_size
from lafp.train.config import TrainConfig
from lafp.train.context import to_clip_batches
from lafp.types import ClipBatch


def first_batches(
    demands: Mapping[str, ClipDemand], cfg: TrainConfig, num_windows: int, device: torch.device
) -> Iterator[dict[str, ClipBatch]]:
    """Yields this rank's share of the first steps, until all ranks have ``num_windows`` in sum.

    All ranks get equally many batches, so that each may use collectives.
    """
    layout = MicroBatchLayout(
        demands=demands,
        rank=rank(),
        world_size=world_size(),
        num_rounds=cfg.gradient_accumulation,
    )
    num_steps = -(-num_windows // cfg.global_batch_size)
    batches = map(to_clip_batches, MicroBatchReader(layout).read_from(0))
    for batch in islice(batches, num_steps * cfg.gradient_accumulation):
        yield {name: clips.to(device) for name, clips in batch.items()}
