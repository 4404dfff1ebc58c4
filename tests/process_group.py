"""Processes of one machine that train together, without Ray."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# They take seven seconds of CPU time in every process that trains. DeepSpeed imports its Muon,
# whatever the optimizer is, and Muon's decorators all of torch's compiler.
IMPORTED_ONCE = (
    "torch._dynamo",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "lafp.train.engines.deepspeed",
    "lafp.train.loop",
    "pytest",
    "tests.synthetic_shards",
    "tests.toy_task",
)


def run_group(num_processes: int, worker: Callable[..., None], *arguments: Any) -> None:
    """Runs ``worker(rank, *arguments)`` in new processes. Raises what one of them raises.

    They are forked from a process that has imported what they need and done nothing else.
    """
    multiprocessing.set_forkserver_preload(list(IMPORTED_ONCE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for a GPU as it is imported
        mp.start_processes(worker, arguments, nprocs=num_processes, start_method="forkserver")


def run_two(worker: Callable[..., None], *arguments: Any) -> None:
    """Does as ``run_group``, with two processes."""
    run_group(2, worker, *arguments)


@contextmanager
def group_of(num_processes: int, rank: int, rendezvous: Path | str) -> Iterator[None]:
    """This process is one of several within the block.

    Args:
        num_processes: How many.
        rank: From 0.
        rendezvous: A file that is not there yet, where they find each other.
    """
    torch.set_num_threads(1)  # they share the cores; of a forked process's threads none are left
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_processes
    )
    yield
    dist.destroy_process_group()


def group_of_two(rank: int, rendezvous: Path | str) -> AbstractContextManager[None]:
    """Does as ``group_of``, with two processes."""
    return group_of(2, rank, rendezvous)
