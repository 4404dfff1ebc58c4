"""Many independent calls as Ray tasks, with progress."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from lafp.progress import Progress


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
    """Runs ``function(*call)`` for every call, one logical CPU each.

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

    Raises:
        ray.exceptions.RayError: A call failed. Those that died with their worker are retried.
    """
    task = ray.remote(function).options(num_cpus=1, num_gpus=num_gpus)
    pending = {task.remote(*call): index for index, call in enumerate(calls)}
    with Progress(label, num_done + sum(sizes), unit) as progress:
        progress.update(num_done)
        while pending:
            (ref,), _ = ray.wait(list(pending), num_returns=1, timeout=None)
            index = pending.pop(ref)
            yield index, ray.get(ref)
            num_done += sizes[index]
            progress.update(num_done)
