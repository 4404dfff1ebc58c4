"""Find shot cuts, so that no clip goes across one. Streaming: a few small pictures in memory."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_pipelines.stages.motion import shrink
from data_pipelines.stages.resample import Event, SegmentEnd, Tick

# Ticks on either side that a cut is compared with; a flash is shorter.
_WINDOW = 2
_DEFAULT_THRESHOLDS = {"content": 27.0, "adaptive": 3.0}
# Least content score of a cut for `adaptive`.
_MIN_ADAPTIVE_CONTENT = 15.0


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """The detectors of PySceneDetect (ContentDetector, AdaptiveDetector), on the clips' frames.

    PySceneDetect itself needs OpenCV and reads whole videos; here the frames come one by one.
    """

    name: Literal["content", "adaptive"] = "adaptive"
    """content cuts where neighbouring frames differ by ``threshold``; adaptive where they differ
    by ``threshold`` times as much as the frames round them, which fast motion does not."""
    threshold: float | None = None
    """content: mean difference of hue, saturation and value, in levels of 255 (default 27).
    adaptive: ratio (default 3)."""

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold <= 0:
            raise ValueError(f"shots.threshold must be positive or null, got {self.threshold}.")


def cut_at_shots(events: Iterable[Event], cfg: ShotsConfig) -> Iterator[Event]:
    """Passes events on and ends the segment wherever a shot begins."""
    shots = _Shots(cfg)
    for event in events:
        if isinstance(event, Tick):
            shots.push(event)
            yield from shots.decided(_WINDOW)
        else:
            yield from shots.decided(0)
            shots = _Shots(cfg)
            yield event
    yield from shots.decided(0)


def to_hsv(pixels: np.ndarray) -> np.ndarray:
    """A small picture in OpenCV's HSV: hue in half degrees.

    Args:
        pixels: uint8 RGB [H, W, 3].

    Returns:
        float32 [h, w, 3]: hue in [0, 180), saturation and value in [0, 255].
    """
    rgb = 255 * shrink(pixels[None])[0]
    value, least = rgb.max(axis=-1), rgb.min(axis=-1)
    span = value - least
    safe_span = np.where(span > 0, span, 1)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = np.where(
        value == red,
        (green - blue) / safe_span,
        np.where(value == green, 2 + (blue - red) / safe_span, 4 + (red - green) / safe_span),
    )
    hue = np.where(span > 0, 30 * hue % 180, 0)
    saturation = 255 * span / np.where(value > 0, value, 1)
    return np.stack([hue, saturation, value], axis=-1)


def content_score(hsv: np.ndarray, other_hsv: np.ndarray) -> float:
    """Mean absolute difference over hue, saturation and value (ContentDetector's weights)."""
    return float(np.abs(hsv - other_hsv).mean())


class _Shots:
    """Ticks of one segment, as long as it is open whether a shot begins with them."""

    def __init__(self, cfg: ShotsConfig) -> None:
        self._is_adaptive = cfg.name == "adaptive"
        self._threshold = cfg.threshold or _DEFAULT_THRESHOLDS[cfg.name]
        self._waiting: deque[Tick] = deque()
        # The last ones are those of the waiting ticks; before them lie decided ones.
        self._hsv: deque[np.ndarray] = deque()
        self._scores: deque[float] = deque()

    def push(self, tick: Tick) -> None:
        is_repeat = bool(self._waiting) and self._waiting[-1].source is tick.source
        hsv = self._hsv[-1] if is_repeat else to_hsv(tick.source.pixels)
        self._scores.append(content_score(self._hsv[-1], hsv) if self._hsv else 0.0)
        self._hsv.append(hsv)
        self._waiting.append(tick)

    def decided(self, num_to_wait: int) -> Iterator[Event]:
        """Yields ticks that have ``num_to_wait`` others behind them, and the cuts before them."""
        while len(self._waiting) > num_to_wait:
            tick = self._waiting.popleft()
            at = len(self._hsv) - len(self._waiting) - 1
            if self._is_cut(at):
                yield SegmentEnd(tick.time_s)
            yield tick
            if at > _WINDOW:
                self._hsv.popleft()
                self._scores.popleft()

    def _is_cut(self, at: int) -> bool:
        score = self._scores[at]
        if at == 0 or score < (_MIN_ADAPTIVE_CONTENT if self._is_adaptive else self._threshold):
            return False
        around = range(max(1, at - _WINDOW), min(len(self._scores), at + _WINDOW + 1))
        if self._is_adaptive:
            others = [self._scores[i] for i in around if i != at]
            if score < self._threshold * np.mean(others or [0.0]):
                return False
        # A flash comes and goes: what was before is there again soon after. Our addition.
        before = range(max(0, at - _WINDOW - 1), at)
        after = range(at, min(len(self._hsv), at + _WINDOW + 1))
        return all(
            content_score(self._hsv[i], self._hsv[j]) >= score / 2 for i in before for j in after
        )
