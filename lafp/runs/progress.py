"""Progress of long work: one live line on a terminal, a line every few seconds in a log."""

import sys
import time
from contextlib import suppress

from lafp.runs.wording import speed

LOG_INTERVAL_S = 10.0
LIVE_INTERVAL_S = 0.2
MIN_JUDGED_S = 3.0
"""No time left is promised before: what ends first is what was quick."""


class Progress:
    """Rate, share and time left of ``total`` units of work.

    Use as a context manager; call ``update`` as often as you like.

    Args:
        label: Names the work.
        total: Units of all of it; 0 where nobody knows.
        unit: In the plural.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._start = self._shown_at = time.monotonic()
        self._found = 0.0
        self._is_live = sys.stderr.isatty()
        self._last_line = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_live and self._last_line:
            _write("\n")

    def found(self, amount: float) -> None:
        """Counts work that an earlier run did: it is part of what is done, but not of the rate."""
        self._found += amount

    def update(self, done: int, detail: str = "") -> None:
        """Shows that ``done`` units are finished, those included that were found."""
        share = f"{done:,}/{self.total:,} {self.unit}" if self.total else f"{done:,} {self.unit}"
        rate = f", {speed(per_s, self.unit)}" if (per_s := self.per_s(done)) > 0 else ""
        left = self.time_left(done, self.total) if self.total else ""
        beside = f"  {detail}" if detail else ""
        self.show(f"{share}{rate}{left}{beside}", is_last=done >= self.total)

    def per_s(self, done: float) -> float:
        """Units per second of this run."""
        return (done - self._found) / max(time.monotonic() - self._start, 1e-9)

    def time_left(self, done: float, total: float) -> str:
        """``, 3 min 20 s left``; empty while that would be a guess, and when all is done."""
        per_s = self.per_s(done)
        if per_s <= 0 or done >= total or time.monotonic() - self._start < MIN_JUDGED_S:
            return ""
        return f", {duration((total - done) / per_s)} left"

    def show(self, text: str, is_last: bool) -> None:
        """A line of progress, unless one was shown a moment ago.

        Args:
            text: What is behind the label.
            is_last: Whether the work is done: then it is shown in any case.
        """
        now = time.monotonic()
        interval = LIVE_INTERVAL_S if self._is_live else LOG_INTERVAL_S
        if now - self._shown_at < interval and not is_last:
            return
        self._shown_at = now
        line = f"[{self.label}] {text}"
        if line == self._last_line:
            return
        self._last_line = line
        _write(f"\r\x1b[2K{line}" if self._is_live else f"{line}\n")

    def say(self, line: str) -> None:
        """Another line, above the live one."""
        _write(f"\r\x1b[2K{line}\n{self._last_line}" if self._is_live else f"{line}\n")


def _write(text: str) -> None:
    """Writes to the terminal. One that is gone (a closed pipe) takes nothing else with it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds for people: ``42 s``, ``3 min 20 s``, ``5 h 10 min``."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
