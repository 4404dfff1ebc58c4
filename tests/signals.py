"""Signals in processes that tests start."""

import signal


def hear_interrupts() -> None:
    """Call it in a new process: a shell starts its background deaf to Ctrl-C, nohup to SIGHUP."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
