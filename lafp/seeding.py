"""Draws random numbers of torch from a seed, without touching those drawn elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Lets each run of the block draw the same numbers; what is drawn after it does not change.

    Args:
        seed: Seed of torch's generators within the block.
        device: GPU on which the block draws too; None for the CPU alone.
    """
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield
