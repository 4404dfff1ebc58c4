"""Frames at a constant rate, by presentation time: at each output time, the frame shown then."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError

# Time stamps jitter by their rounding. A frame that begins this share of a step late still counts.
JITTER = 0.25


@dataclass(frozen=True)
class Tick:
    """One output frame. Ticks of a segment lie 1/fps apart."""

    time_s: float
    source: "ShownFrame"


@dataclass
class ShownFrame:
    """A decoded frame whose pixels are converted once, when a tick needs them."""

    time_s: float
    convert: Callable[[], np.ndarray]

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self.convert()


@dataclass(frozen=True)
class SegmentEnd:
    """The ticks since the last cut end here: no clip goes across."""

    time_s: float


@dataclass(frozen=True)
class Cut:
    """A span of the video without ticks."""

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
    """Turns decoded frames of any rate into ticks of a constant one.

    A segment is a sound stretch of the video; its ticks are at start, start + 1/fps, ... Segments
    and cuts come in order and leave nothing out: together they are [start_s, duration_s].

    Args:
        events: What a decoder yields.
        fps: Of the output.
        source_fps: Of the input; only says how much jitter is rounding.
        duration_s: Of the video, or end of a piece of it.
        max_hold_s: A frame that is shown for longer is followed by a gap.
        start_s: Of a piece: the frame that is shown then is the first one.
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
        # What was decoded is sound and stays; the frame on display ends after its own step.
        yield from clock.end_segment(min(clock.natural_end_s, duration_s))
        yield from clock.cut(duration_s, error.reason, error.detail)
        return
    yield from clock.end_segment(duration_s)
    yield from clock.cut(duration_s, "damaged", "no frames were decoded here")


def _within(
    events: Iterable[DecodedFrame | DamagedSpan], start_s: float, end_s: float
) -> Iterator[DecodedFrame | DamagedSpan]:
    """What is shown from start to end: the frame of the start begins there."""
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


class Foresight:
    """Says which frames ``resample`` will ask for: those on display at a tick.

    It goes through the time stamps ahead of the frames, which wait for the decoder's verdict. It
    holds as long as nothing is cut out: a cut moves the ticks. Arguments are those of ``resample``.
    """

    def __init__(
        self, *, fps: float, source_fps: float, max_hold_s: float, start_s: float = 0.0
    ) -> None:
        self._clock = _Clock(fps, source_fps, max_hold_s, start_s)
        self._start_s, self._is_before_start = start_s, False

    def __call__(self, time_s: float) -> bool:
        """Takes the next frame's time; returns whether the one before is on display at a tick."""
        if time_s < self._start_s:
            self._is_before_start = True
            return False
        if self._is_before_start:  # the frame of the start begins there
            self._is_before_start = False
            self._is_on_display(self._start_s)
        return self._is_on_display(time_s)

    def _is_on_display(self, time_s: float) -> bool:
        events = list(self._clock.show(DecodedFrame(time_s, _no_pixels)))
        return any(isinstance(event, Tick) for event in events)


def _no_pixels() -> np.ndarray:
    raise AssertionError("only its time is known")


class _Clock:
    def __init__(self, fps: float, source_fps: float, max_hold_s: float, start_s: float) -> None:
        self.fps, self.source_fps, self.max_hold_s = fps, source_fps, max_hold_s
        self.tolerance_s = JITTER * min(1 / source_fps, 1 / fps)
        self.covered_until_s = start_s
        """Everything before is in a segment or in a cut."""
        self.shown: ShownFrame | None = None
        self.segment_start_s = 0.0
        self.num_ticks = 0

    @property
    def natural_end_s(self) -> float:
        """When the frame on display would end if nothing followed."""
        return self.shown.time_s + 1 / self.source_fps if self.shown else self.covered_until_s

    def show(self, frame: DecodedFrame) -> Iterator[Event]:
        if self.shown is not None and frame.time_s - self.shown.time_s > self.max_hold_s:
            yield from self.end_segment(frame.time_s)
        yield from self.cut(frame.time_s, "damaged", "no frames were decoded here")
        if self.shown is None:
            self.segment_start_s, self.num_ticks = frame.time_s, 0
            self.covered_until_s = frame.time_s
        else:
            yield from self.ticks_until(frame.time_s)
        self.shown = ShownFrame(frame.time_s, frame.pixels)

    def ticks_until(self, end_s: float) -> Iterator[Event]:
        assert self.shown is not None
        while (tick_s := self.segment_start_s + self.num_ticks / self.fps) < (
            end_s - self.tolerance_s
        ):
            yield Tick(tick_s, self.shown)
            self.num_ticks += 1
        self.covered_until_s = end_s

    def end_segment(self, end_s: float) -> Iterator[Event]:
        """Ends the segment at ``end_s``, or earlier if its last frame would stay too long."""
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
        """Accounts for what lies between the last segment or cut and ``end_s``."""
        if self.shown is None and end_s > self.covered_until_s:
            yield Cut(self.covered_until_s, end_s, reason, detail)
            self.covered_until_s = end_s
