"""Makes all training workers save after the same step when one of them hears a request.

A worker hears of a SIGTERM to itself, because its machine is about to be shut down, and worker 0
also of a stop that the driver asks for (``stop``). Every few steps the workers exchange what they
have heard in one all-reduce of two numbers.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from lafp.train.notice import Notice

_EXCHANGED_EVERY_S, _MOST_STEPS = 1.0, 4
"""Workers exchange notices about once in this time, because an exchange makes them wait for each
other; and after this many steps at the latest, because the next steps may be slower."""


class Notices:
    """Tells a training worker what to do after a step. All workers get the same answers.

    The main thread of the process must have entered ``sigterm_noted`` before.

    Args:
        is_stop_asked: Says whether the driver asks for a stop.
        rank: Rank of the worker.
        num_workers: Number of workers that train together.
    """

    def __init__(self, is_stop_asked: Callable[[], bool], rank: int, num_workers: int) -> None:
        self._num_workers = num_workers
        # Only worker 0 asks the driver.
        self._is_stop_asked = is_stop_asked if rank == 0 else lambda: False
        self._next_step, self._num_steps, self._asked_at = 0, 1, time.monotonic()

    def __call__(self, step: int) -> Notice:
        """Returns the notice to act on after ``step`` steps. All workers call it after each step.

        It does not wait for a device.
        """
        if step < self._next_step:
            return Notice.NONE
        elapsed_s = time.monotonic() - self._asked_at
        num_steps = int(self._num_steps * _EXCHANGED_EVERY_S / max(elapsed_s, 1e-6))
        agreed = torch.tensor([self._heard(), max(1, min(num_steps, _MOST_STEPS))])
        if self._num_workers > 1:
            # The maximum: one worker's notice is everyone's, and a stop outweighs a save. All take
            # the same number of steps too, because the next exchange is a collective call.
            dist.all_reduce(agreed, dist.ReduceOp.MAX)
        notice, self._num_steps = agreed.tolist()
        self._next_step, self._asked_at = step + self._num_steps, time.monotonic()
        return Notice(notice)

    def _heard(self) -> Notice:
        """Returns the request that has reached this worker since the last exchange."""
        if self._is_stop_asked():
            return Notice.STOP
        if _signal_came.is_set():
            _signal_came.clear()
            return Notice.SAVE
        return Notice.NONE


_signal_came = threading.Event()
"""Set if this process is a training worker that got a SIGTERM and has not told the others yet."""


@contextmanager
def sigterm_noted() -> Iterator[None]:
    """Turns the first SIGTERM in the block into a notice to save. The second one acts as before.

    Only the main thread may enter it, because only that thread may handle signals.
    """
    previous = signal.getsignal(signal.SIGTERM)

    def handle(*_: object) -> None:
        signal.signal(signal.SIGTERM, previous)
        _signal_came.set()

    _signal_came.clear()
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
