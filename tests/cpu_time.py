"""Interrupts what takes too much CPU time: unlike wall time, it is the same on a busy machine."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = {signal.ITIMER_PROF: signal.SIGPROF, signal.ITIMER_VIRTUAL: signal.SIGVTALRM}


@contextmanager
def interrupted_after(
    seconds: float, interrupt: Callable[[int, FrameType | None], None], timer: int
) -> Iterator[None]:
    """Calls ``interrupt`` in the block after so much CPU time, as a handler of the timer's signal.

    Args:
        seconds: CPU time of this process.
        interrupt: Raises what ends the block.
        timer: ``signal.ITIMER_PROF`` counts the kernel's time too, ``ITIMER_VIRTUAL`` does not.
    """
    before = signal.signal(_SIGNALS[timer], interrupt)
    signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)
        signal.signal(_SIGNALS[timer], before)
