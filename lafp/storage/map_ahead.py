"""Calls a function for many items in threads, a few items ahead of the consumer."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_ahead: int = 16
) -> Iterator[Result]:
    """Yields ``function(item)`` in the order of the items.

    ``Executor.map`` would take all items at once; Python 3.14 has ``buffersize`` for this. S3
    answers slowly but many at a time, so reading ahead makes the driver faster by ``num_ahead``.

    Args:
        function: Runs in threads.
        items: Is read in the consumer's thread, so it need not be safe in others.
        num_ahead: Number of calls at a time, and of results that wait for the consumer.

    Raises:
        Exception: What ``function`` raises for an item, when the results before it were taken.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_ahead, "ahead")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == num_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
