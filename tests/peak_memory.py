"""Measures the memory that Python objects take while a function runs."""

import tracemalloc
from collections.abc import Callable


def peak_bytes(work: Callable[[], object]) -> int:
    """Returns the most memory that Python objects took while ``work()`` ran, in bytes.

    It is the least of three runs: threads that other tests of the process left behind allocate too.
    """
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return min(peaks)
