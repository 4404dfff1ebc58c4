"""Two processes of one machine that train together, without Ray."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist


@contextmanager
def group_of_two(rank: int, rendezvous: Path | str) -> Iterator[None]:
    """This process is one of two within the block.

    Args:
        rank: 0 or 1.
        rendezvous: A file that is not there yet, where they find each other.
    """
    torch.set_num_threads(1)  # two share the cores; of a forked process's threads none are left
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    yield
    dist.destroy_process_group()
