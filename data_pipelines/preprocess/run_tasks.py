"""Runs the tasks of `preprocess`: on Ray where one runs, else in threads of this process.

On one machine a task needs nothing of Ray, whose start and workers take seconds. A thread is
enough, because the decoding itself is done by a process of its own (``sandbox``).
"""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from data_pipelines.on_ray.joined import is_on_ray
from data_pipelines.preprocess.config import TasksConfig
from lafp import machine

Key = TypeVar("Key")
Result = TypeVar("Result")
# The rest is for the page cache and for other programs.
_SHARE_OF_MEMORY = 0.7
_STOP_EVERY_S = 0.1


def run_tasks(
    function: Callable[..., Result],
    calls: Iterable[tuple[Key, tuple[object, ...]]],
    cfg: TasksConfig,
    stop: Callable[[], object] = lambda: None,
) -> Generator[tuple[Key, Result]]:
    """Runs ``function(*call)`` for every call, as many at a time as there are CPUs and memory.

    Args:
        function: Importable on Ray's workers.
        calls: Pairs of a key that identifies the call and its arguments. See ``stream_tasks``.
        cfg: What the tasks need.
        stop: Ends calls that run in other threads of this process. It is called, until none is
            left, when all calls are done, one has failed, or the caller closes the generator.

    Yields:
        Key and result of each call, in the order of completion.
    """
    if not is_on_ray():
        return _in_threads(function, calls, num_at_a_time(cfg.memory_bytes), stop)
    from data_pipelines.on_ray.tasks import stream_tasks

    return stream_tasks(function, calls, memory_bytes=cfg.memory_bytes, node_labels=cfg.node_labels)


def num_at_a_time(memory_bytes: int) -> int:
    """Returns how many tasks with so much memory each this process runs at a time."""
    fit = int(_SHARE_OF_MEMORY * machine.memory_bytes()) // memory_bytes
    return max(1, min(machine.num_cpus(), fit))


def _in_threads(
    function: Callable[..., Result],
    calls: Iterable[tuple[Key, tuple[object, ...]]],
    num: int,
    stop: Callable[[], object],
) -> Generator[tuple[Key, Result]]:
    pending: dict[Future[Result], Key] = {}
    remaining, pool = iter(calls), ThreadPoolExecutor(num)
    try:
        while True:
            while len(pending) < num and (found := next(remaining, None)) is not None:
                key, call = found
                pending[pool.submit(function, *call)] = key
            if not pending:
                return
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield pending.pop(future), future.result()
    finally:
        stop()
        # Again and again, because a call may just have begun.
        while wait(pending, timeout=_STOP_EVERY_S).not_done:
            stop()
        pool.shutdown()
