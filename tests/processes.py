"""The processes below one, by what their command lines say."""

import time
from collections.abc import Iterator
from contextlib import suppress

import psutil


def processes_below(pid: int, text: str) -> Iterator[psutil.Process]:
    """Those whose command line holds ``text``; Ray writes there what a worker is doing."""
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if text in " ".join(process.cmdline()):
                yield process


def kill_one_below(pid: int, text: str, timeout_s: float) -> None:
    """SIGKILL to the first such process, as soon as there is one.

    Raises:
        AssertionError: There was none in time, or ``pid`` ended first.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        for process in processes_below(pid, text):
            with suppress(psutil.NoSuchProcess):  # gone since, by itself
                process.kill()
                return
        time.sleep(0.02)
    raise AssertionError(f"No process with {text!r} in its command line was there to be killed.")
