"""Progress of long work: one live line on a terminal, a line every few seconds in a log."""

import sys
import time
from contextlib import suppress

LOG_INTERVAL_S = 10.0
LIVE_INTERVAL_S = 0.2


class Progress:
    """Rate, share and time left of ``total`` units of work.

    Use as a context manager; call ``update`` as often as you like.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self._start = self._shown_at = time.monotonic()
        self._first: int | None = None
        self._is_live = sys.stderr.isatty()
        self._last_line = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_live and self._last_line:
            _write("\n")

    def update(self, done: int, detail: str = "") -> None:
        """Shows that ``done`` units are finished; work found done at the first call is no speed."""
        if self._first is None:
            self._first = done
        now = time.monotonic()
        interval = LIVE_INTERVAL_S if self._is_live else LOG_INTERVAL_S
        if now - self._shown_at < interval and done < self.total:
            return
        self._shown_at = now
        line = self._line(done, now - self._start, detail)
        if line == self._last_line:
            return
        self._last_line = line
        _write(f"\r\x1b[2K{line}" if self._is_live else f"{line}\n")

    def say(self, line: str) -> None:
        """Another line, above the live one."""
        _write(f"\r\x1b[2K{line}\n{self._last_line}" if self._is_live else f"{line}\n")

    def _line(self, done: int, elapsed_s: float, detail: str) -> str:
        assert self._first is not None
        rate = (done - self._first) / max(elapsed_s, 1e-9)
        share = f"{done}/{self.total} {self.unit}" if self.total else f"{done} {self.unit}"
        left = f", {duration((self.total - done) / rate)} left" if rate and self.total else ""
        return f"[{self.label}] {share}, {rate:.3g} {self.unit}/s{left}" + (
            f"  {detail}" if detail else ""
        )


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
