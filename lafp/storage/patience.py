"""Repeats storage requests while the storage is unreachable."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lafp.storage.base import UnreachableError

T = TypeVar("T")
PATIENCE_S = 180.0
"""Time that a worker waits for an unreachable S3 before it fails."""
_patience_s = 0.0


def be_patient(seconds: float = PATIENCE_S) -> None:
    """Makes later requests of this process wait up to ``seconds`` for an unreachable S3.

    Workers call it in the middle of a long job. Other processes rely on boto3's retries alone, so
    that a wrong endpoint is reported at once.
    """
    global _patience_s
    _patience_s = seconds


@contextmanager
def patient() -> Iterator[None]:
    """Waits for an unreachable S3 within the block, so that it does not end a long job."""
    be_patient()
    try:
        yield
    finally:
        be_patient(0.0)


def patiently(request: Callable[[], T]) -> T:
    """Calls ``request`` again, at growing intervals, while storage is unreachable."""
    deadline = time.monotonic() + _patience_s
    pause_s = 0.5
    while True:
        try:
            return request()
        except UnreachableError:
            if time.monotonic() + pause_s > deadline:
                raise
        # The random factor keeps workers from repeating their requests at the same moment.
        time.sleep(pause_s * random.uniform(0.75, 1.25))
        pause_s = min(2 * pause_s, 15.0)
