"""Cuts out spans without motion: still pictures, frozen streams, black, an empty room."""

from collections.abc import Iterable, Iterator

import numpy as np

from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.resample import Cut, Event, SegmentEnd, Tick

# Largest coding noise of a still picture, in levels of 255: mean, and in one cell of the small one.
_MAX_MEAN, _MAX_CELL = 0.5, 4.0


def cut_still(
    events: Iterable[Event], max_frozen_s: float, min_motion: float | None
) -> Iterator[Event]:
    """Replaces spans of more than ``max_frozen_s`` without motion by cuts, and passes the rest on.

    A ``frozen`` span shows one picture: each tick is compared with the first tick of the span, so
    that a slow fade does not count. A ``static`` span moves by less than ``min_motion`` from each
    tick to the next, like a room with changing light. Ticks are held back for at most
    ``max_frozen_s``.
    """
    run = _Run(min_motion)
    for event in events:
        if isinstance(event, Tick):
            if not run.goes_on(event):
                yield from run.close(event.time_s)
                run = _Run(min_motion)
                # The tick that moved may be the first of the next still span.
                run.goes_on(event)
            elif not run.is_cut and event.time_s - run.start_s > max_frozen_s:
                run.is_cut = True
                run.ticks.clear()
                # The clip before the still span ends where that span began, not where it was
                # noticed.
                yield SegmentEnd(run.start_s)
        else:
            end_s = event.start_s if isinstance(event, Cut) else event.time_s
            is_cut = run.is_cut
            yield from run.close(end_s)
            # A cut has ended the segment already.
            if not (is_cut and isinstance(event, SegmentEnd)):
                yield event
            run = _Run(min_motion)
    assert not run.ticks, "resample ends every segment"


class _Run:
    """Collects ticks without motion between them. A single tick always is such a run."""

    def __init__(self, min_motion: float | None) -> None:
        self.ticks: list[Tick] = []
        self.start_s = 0.0
        self.is_cut = False
        self._min_motion = min_motion or 0.0
        self._is_frozen = self._is_static = True
        self._first = self._last = np.empty(0)

    def goes_on(self, tick: Tick) -> bool:
        """Takes a tick and returns True, unless the tick moves."""
        small = shrink(tick.source.pixels[None])
        if not self._first.size:
            self._first, self.start_s = small, tick.time_s
        else:
            is_frozen = self._is_frozen and _is_same(255 * self._first, 255 * small)
            moved = np.abs(small - self._last).mean()
            is_static = self._is_static and bool(moved < self._min_motion)
            if not (is_frozen or is_static):
                return False
            self._is_frozen, self._is_static = is_frozen, is_static
        self._last = small
        if not self.is_cut:
            self.ticks.append(tick)
        return True

    def close(self, end_s: float) -> Iterator[Event]:
        if self.is_cut:
            reason, what = ("frozen", "one picture") if self._is_frozen else ("static", "no motion")
            yield Cut(self.start_s, end_s, reason, f"{what} for {end_s - self.start_s:.3g} s")
        else:
            yield from self.ticks


def _is_same(picture: np.ndarray, other: np.ndarray) -> bool:
    difference = np.abs(picture - other)
    return bool(difference.mean() <= _MAX_MEAN and difference.max() <= _MAX_CELL)
