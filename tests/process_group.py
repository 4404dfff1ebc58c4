"""Two processes of one machine that train together, without Ray."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# They take four seconds of CPU time in every process that trains.
IMPORTED_ONCE = ("torch._dynamo", "deepspeed", "lafp.train.engines.deepspeed", "lafp.train.loop")


def run_two(worker: Callable[..., None], *arguments: Any) -> None:
    """Runs ``worker(rank, *arguments)`` in two new processes. Raises what one of them raises.

    They are forked from a process that has imported what they need and done nothing else.
    """
    multiprocessing.set_forkserver_preload(list(IMPORTED_ONCE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for a GPU as it is imported
        mp.start_processes(worker, arguments, nprocs=2, start_method="forkserver")


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
