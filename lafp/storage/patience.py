"""How long a process waits for storage that is gone."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from lafp.storage.base import UnreachableError

T = TypeVar("T")
PATIENCE_S = 180.0
"""How long workers wait for an S3 that is gone, before they fail."""
_patience_s = 0.0


def be_patient(seconds: float = PATIENCE_S) -> None:
    """From now on, requests of this process wait so long for an S3 that has gone.

    For workers in the middle of a long job. Without it boto3's own retries must do, so that a wrong
    endpoint is told at once.
    """
    global _patience_s
    _patience_s = seconds


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
        time.sleep(pause_s * random.uniform(0.75, 1.25))  # not all workers at once
        pause_s = min(2 * pause_s, 15.0)
