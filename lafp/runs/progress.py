"""Shows progress: one line that updates on a terminal, a line every few seconds in a log."""

import sys
import time
from contextlib import suppress

from lafp.runs.wording import printable, speed

LOG_INTERVAL_S = 10.0
LIVE_INTERVAL_S = 0.2
MIN_JUDGED_S = 3.0
"""No estimate of the time left is shown before. The first units to finish are the quickest ones,
so an earlier estimate would be too short."""


class Progress:
    """Shows the share, rate and time left of ``total`` units of work.

    Use it as a context manager, and call ``update`` at any rate.

    Args:
        title: Name of the work.
        total: Number of units; 0 if it is unknown.
        unit: Name of the unit, in the plural.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
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
        """Adds work of an earlier run, which counts as done but not for the rate."""
        self._found += amount

    def update(self, done: int, detail: str = "") -> None:
        """Shows that ``done`` units are finished, including work of earlier runs."""
        share = f"{done:,}/{self.total:,} {self.unit}" if self.total else f"{done:,} {self.unit}"
        rate = f", {speed(per_s, self.unit)}" if (per_s := self.per_s(done)) > 0 else ""
        left = self.time_left(done, self.total) if self.total else ""
        beside = f"  {detail}" if detail else ""
        self.show(f"{share}{rate}{left}{beside}", is_last=done >= self.total)

    def per_s(self, done: float) -> float:
        """Returns the units per second of this run."""
        return (done - self._found) / max(time.monotonic() - self._start, 1e-9)

    def time_left(self, done: float, total: float) -> str:
        """Returns e.g. ``, 3 min 20 s left``; empty if it is too early to say, or all is done."""
        per_s = self.per_s(done)
        if per_s <= 0 or done >= total or time.monotonic() - self._start < MIN_JUDGED_S:
            return ""
        return f", {duration((total - done) / per_s)} left"

    def show(self, text: str, is_last: bool) -> None:
        """Shows a line of progress, unless the last one was shown a moment ago.

        Args:
            text: The text after the title.
            is_last: Whether the work is done, so that the line is always shown.
        """
        now = time.monotonic()
        interval = LIVE_INTERVAL_S if self._is_live else LOG_INTERVAL_S
        if now - self._shown_at < interval and not is_last:
            return
        self._shown_at = now
        line = f"[{self.title}] {printable(text)}"
        if line == self._last_line:
            return
        self._last_line = line
        _write(f"\r\x1b[2K{line}" if self._is_live else f"{line}\n")

    def say(self, line: str) -> None:
        """Writes another line, above the line of progress."""
        line = printable(line)
        _write(f"\r\x1b[2K{line}\n{self._last_line}" if self._is_live else f"{line}\n")


def _write(text: str) -> None:
    """Writes to the terminal. A closed terminal or pipe is no error, so that the work goes on."""
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Formats seconds for people: ``42 s``, ``3 min 20 s``, ``5 h 10 min``."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
