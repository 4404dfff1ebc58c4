"""Many independent calls as Ray tasks: as many at a time as the cluster is worth, with progress."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from lafp.config.node_labels import label_selector
from lafp.runs.progress import Progress

Key = TypeVar("Key")

# Twice the cluster's CPUs: enough that no core waits, and that an autoscaler sees the demand.
_CALLS_PER_CPU = 2
_MIN_CALLS = 8
_RECOUNT_S = 10.0
# A worker or node that goes away is no fault of the call; one that always does is.
_MAX_LOST_WORKERS = 20


def stream_tasks(
    function: Callable[..., Any],
    calls: Iterable[tuple[Key, tuple[Any, ...]]],
    *,
    num_gpus: float = 0,
    memory_bytes: int | None = None,
    node_labels: tuple[str, ...] = (),
) -> Iterator[tuple[Key, Any]]:
    """Runs ``function(*call)`` for every call, one logical CPU each.

    Calls are taken from the iterable as there is room for them: there may be any number, and their
    memory is that of twice as many as the cluster has CPUs.

    Args:
        function: Importable on the workers.
        calls: Anything that tells the calls apart, and their arguments.
        num_gpus: Of each task.
        memory_bytes: Logical memory that Ray keeps for each task.
        node_labels: Of the nodes that may run them, ``key=value`` each.

    Yields:
        Key and result of each call, in the order of completion.

    Raises:
        ray.exceptions.RayError: A call failed. Those that lost their worker or node are retried.
    """
    task = ray.remote(function).options(
        num_cpus=1,
        num_gpus=num_gpus,
        memory=memory_bytes,
        max_retries=_MAX_LOST_WORKERS,
        label_selector=label_selector(node_labels) or None,
    )
    pending: dict[Any, Key] = {}
    remaining, counted_at, room = iter(calls), float("-inf"), 0
    while True:
        if time.monotonic() - counted_at > _RECOUNT_S:
            counted_at = time.monotonic()
            num_cpus = int(ray.cluster_resources().get("CPU", 0))
            room = max(_MIN_CALLS, _CALLS_PER_CPU * num_cpus)
        while len(pending) < room and (found := next(remaining, None)) is not None:
            key, call = found
            pending[task.remote(*call)] = key
        if not pending:
            return
        done, _ = ray.wait(list(pending), num_returns=1, timeout=_RECOUNT_S)
        for ref in done:
            yield pending.pop(ref), ray.get(ref)


def run_tasks(
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    sizes: Sequence[int],
    label: str,
    unit: str,
    num_done: int = 0,
    num_gpus: float = 0,
) -> Iterator[tuple[int, Any]]:
    """``stream_tasks`` of known calls, with a progress line.

    Args:
        function: Importable on the workers.
        calls: Arguments.
        sizes: Units of work in each call, for the progress line.
        label: Names the work in the progress line.
        unit: Of ``sizes``, in the plural.
        num_done: Units that an earlier run finished.
        num_gpus: Of each task.

    Yields:
        Index of the call and its result, in the order of completion.
    """
    with Progress(label, num_done + sum(sizes), unit) as progress:
        progress.found(num_done)
        for index, result in stream_tasks(function, enumerate(calls), num_gpus=num_gpus):
            yield index, result
            num_done += sizes[index]
            progress.update(num_done)
