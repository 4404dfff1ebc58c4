"""Times the steps of a run, and how long they wait for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimer:
    """Times the steps since the last restart.

    Args:
        windows_per_step: Windows per step, over all ranks.
    """

    def __init__(self, windows_per_step: int) -> None:
        self._windows_per_step = windows_per_step
        self.restart()

    def restart(self) -> None:
        """Begins a new interval, e.g. after an evaluation, whose time must not count."""
        self._start = time.perf_counter()
        self._waiting_s = 0.0
        self._num_steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time in the block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waiting_s += time.perf_counter() - start

    def end_step(self) -> None:
        """Counts a step."""
        self._num_steps += 1

    def metrics(self) -> dict[str, float]:
        """Returns the speed of the interval, which has at least one step."""
        elapsed_s = time.perf_counter() - self._start
        return {
            "windows_per_s": self._num_steps * self._windows_per_step / elapsed_s,
            "step_s": elapsed_s / self._num_steps,
            "data_wait_share": self._waiting_s / elapsed_s,
        }
