"""Resamples frames to a constant rate: each output time gets the frame that is shown then."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError

# Time stamps jitter because they are rounded. A frame may begin this share of a step late.
JITTER = 0.25


@dataclass(frozen=True)
class Tick:
    """Holds one output frame. Ticks of a segment lie 1/fps apart."""

    time_s: float
    source: "ShownFrame"


@dataclass
class ShownFrame:
    """Holds a decoded frame whose pixels are converted once, when a tick needs them."""

    time_s: float
    convert: Callable[[], np.ndarray]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Returns uint8 [H, W, 3]."""
        return self.convert()


@dataclass(frozen=True)
class SegmentEnd:
    """Ends the segment of the ticks since the last cut. No clip crosses it."""

    time_s: float


@dataclass(frozen=True)
class Cut:
    """Describes a span of the video without ticks."""

    start_s: float
    end_s: float
    reason: str
    detail: str


Event = Tick | SegmentEnd | Cut


def resample(
    events: Iterable[DecodedFrame | DamagedSpan],
    *,
    fps: float,
    source_fps: float,
    duration_s: float,
    max_hold_s: float,
    start_s: float = 0.0,
) -> Iterator[Event]:
    """Converts decoded frames of any rate to ticks at a constant rate.

    A segment is a sound stretch of the video; its ticks are at start, start + 1/fps, ... Segments
    and cuts come in order and together cover [start_s, duration_s].

    Args:
        events: The output of a video decoder.
        fps: Rate of the output.
        source_fps: Rate of the input, which only decides how much jitter counts as rounding.
        duration_s: Duration of the video, or end of a piece.
        max_hold_s: A frame that is shown for longer is followed by a gap.
        start_s: Start of a piece. The frame that is shown then is the first one.
    """
    clock = _Clock(fps, source_fps, max_hold_s, start_s)
    try:
        for event in _within(events, start_s, duration_s):
            if isinstance(event, DecodedFrame):
                yield from clock.show(event)
            else:
                yield from clock.end_segment(event.start_s)
                yield from clock.cut(event.end_s, event.reason, event.detail)
    except VideoError as error:
        # Frames decoded before the error are sound and stay. The last one ends after its own step.
        yield from clock.end_segment(min(clock.natural_end_s, duration_s))
        yield from clock.cut(duration_s, error.reason, error.detail)
        return
    yield from clock.end_segment(duration_s)
    yield from clock.cut(duration_s, "damaged", "no frames were decoded here")


def _within(
    events: Iterable[DecodedFrame | DamagedSpan], start_s: float, end_s: float
) -> Iterator[DecodedFrame | DamagedSpan]:
    """Yields the events from start to end. The frame shown at the start begins there."""
    shown: DecodedFrame | None = None
    for event in events:
        if isinstance(event, DecodedFrame):
            if event.time_s >= end_s:
                break
            if event.time_s < start_s:
                shown = event
                continue
            if shown is not None:
                yield DecodedFrame(start_s, shown.pixels)
                shown = None
            yield event
        elif event.end_s > start_s:
            if shown is not None and event.start_s > start_s:
                yield DecodedFrame(start_s, shown.pixels)
            shown = None
            if event.start_s >= end_s:
                break
            yield replace(event, start_s=max(event.start_s, start_s), end_s=min(event.end_s, end_s))
        else:
            shown = None
    if shown is not None:
        yield DecodedFrame(start_s, shown.pixels)


class FramePlan:
    """Predicts which frames ``resample`` will ask for: those shown at a tick.

    A decoder calls it with the time of each frame, while the frames wait until they are known to be
    sound. The prediction holds as long as nothing is cut out, because a cut moves the ticks. It
    runs the same clock as ``resample``, so that both round alike, and takes the same arguments.
    """

    def __init__(
        self, *, fps: float, source_fps: float, max_hold_s: float, start_s: float = 0.0
    ) -> None:
        self._clock = _Clock(fps, source_fps, max_hold_s, start_s)
        self._start_s, self._is_before_start = start_s, False

    def __call__(self, time_s: float) -> bool:
        """Takes the next frame's time. Returns whether the frame before it is shown at a tick."""
        if time_s < self._start_s:
            self._is_before_start = True
            return False
        if self._is_before_start:  # the frame shown at the start counts from there
            self._is_before_start = False
            self._is_on_display(self._start_s)
        return self._is_on_display(time_s)

    def _is_on_display(self, time_s: float) -> bool:
        events = list(self._clock.show(DecodedFrame(time_s, _no_pixels)))
        return any(isinstance(event, Tick) for event in events)


def _no_pixels() -> np.ndarray:
    raise AssertionError("a planned frame has no pixels")


class _Clock:
    def __init__(self, fps: float, source_fps: float, max_hold_s: float, start_s: float) -> None:
        self.fps, self.source_fps, self.max_hold_s = fps, source_fps, max_hold_s
        # The shorter step counts. A quarter of a long source step could skip whole ticks.
        self.tolerance_s = JITTER * min(1 / source_fps, 1 / fps)
        self.covered_until_s = start_s
        """Segments and cuts cover everything before this time."""
        self.shown: ShownFrame | None = None
        self.segment_start_s = 0.0
        self.num_ticks = 0

    @property
    def natural_end_s(self) -> float:
        """Returns when the shown frame would end if no frame followed it."""
        return self.shown.time_s + 1 / self.source_fps if self.shown else self.covered_until_s

    def show(self, frame: DecodedFrame) -> Iterator[Event]:
        if self.shown is not None and frame.time_s - self.shown.time_s > self.max_hold_s:
            yield from self.end_segment(frame.time_s)
        # Every second must lie in a segment or a cut, also if the decoder left frames out without a
        # word.
        yield from self.cut(frame.time_s, "damaged", "no frames were decoded here")
        if self.shown is None:
            self.segment_start_s, self.num_ticks = frame.time_s, 0
            self.covered_until_s = frame.time_s
        else:
            yield from self.ticks_until(frame.time_s)
        self.shown = ShownFrame(frame.time_s, frame.pixels)

    def ticks_until(self, end_s: float) -> Iterator[Event]:
        assert self.shown is not None
        # Computed from the start each time. Adding 1/fps again and again would sum up rounding
        # errors.
        while (tick_s := self.segment_start_s + self.num_ticks / self.fps) < (
            end_s - self.tolerance_s
        ):
            yield Tick(tick_s, self.shown)
            self.num_ticks += 1
        self.covered_until_s = end_s

    def end_segment(self, end_s: float) -> Iterator[Event]:
        """Ends the segment at ``end_s``, or earlier if its last frame would be shown too long."""
        if self.shown is None:
            return
        last_s = self.shown.time_s
        is_gap = end_s - last_s > self.max_hold_s
        segment_end_s = min(end_s, self.natural_end_s) if is_gap else end_s
        yield from self.ticks_until(segment_end_s)
        yield SegmentEnd(segment_end_s)
        self.shown = None
        if is_gap:
            yield from self.cut(end_s, "gap", f"one frame is shown for {end_s - last_s:.3g} s")

    def cut(self, end_s: float, reason: str, detail: str) -> Iterator[Event]:
        """Cuts the span between the last segment or cut and ``end_s``, if it has a length."""
        if self.shown is None and end_s > self.covered_until_s:
            yield Cut(self.covered_until_s, end_s, reason, detail)
            self.covered_until_s = end_s
