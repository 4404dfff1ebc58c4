"""Finds shot cuts, so that no clip crosses one. It streams, with a few small pictures in memory."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.resample import Event, SegmentEnd, Tick

# The threshold of PySceneDetect's ContentDetector, and one chosen on labeled real videos
# (docs/videos.md).
_CONTENT_THRESHOLD, _ADAPTIVE_THRESHOLD = 27.0, 2.0
# A change is compared with the changes within this time, because a picture that was held for 0.3 s
# jumps too when it changes.
_AROUND_S, _MAX_AROUND = 0.45, 30
# Longest flash, in ticks.
_FLASH_TICKS = 2
# Least difference in brightness of a cut, because darkness has no structure to compare.
_MIN_CHANGE = 0.03
# In a new shot the structure changes by this much, and this share of the blocks is found nowhere
# near in the picture before.
_NEW_PICTURE, _NEW_BLOCKS = 0.4, 0.5
# Amid fast motion, a cut that falls short of the usual ratio counts only if the picture is surely
# new by these higher limits.
_SURELY_NEW_PICTURE, _SURELY_NEW_BLOCKS, _SURE_SHARE = 0.6, 0.8, 0.7
# In a still scene, a cut to another take changes little, but much more than the changes around it.
_OTHER_TAKE, _OTHER_TAKE_SHARE = 0.08, 1.5
# Variance of brightness that correlations attribute to noise.
_NOISE = 0.02**2
# Added to changes before they are compared, and weights of their ratios: for structure, brightness.
_FLOORS, _WEIGHTS = (0.02, 0.01), (1.0, 1.2)
_BLOCK_PX, _SEARCH_PX, _MAX_BLOCK_DIFFERENCE = 4, 3, 0.04
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """Says how shot cuts are found, on frames at the clips' rate."""

    name: Literal["content", "adaptive"] = "adaptive"
    """adaptive cuts where the structure of the picture changes more than around it, which neither
    motion nor a change of exposure does. content (PySceneDetect's ContentDetector) cuts where
    neighbouring frames differ by ``threshold``."""
    threshold: float | None = None
    """adaptive: ratio of a cut's change to the changes around it (default 2). content: mean
    difference of hue, saturation and value, in levels of 255 (default 27)."""

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold <= 0:
            raise ValueError(f"shots.threshold must be positive or null, got {self.threshold}.")


def cut_at_shots(events: Iterable[Event], cfg: ShotsConfig, fps: float) -> Iterator[Event]:
    """Passes events on and ends the segment wherever a shot begins.

    Args:
        events: The output of ``resample``.
        cfg: Says which changes are cuts.
        fps: Rate of the ticks.
    """
    shots = _Shots(cfg, fps)
    for event in events:
        if isinstance(event, Tick):
            shots.push(event)
            yield from shots.decided(shots.num_around)
        else:
            yield from shots.decided(0)
            shots = _Shots(cfg, fps)
            yield event
    yield from shots.decided(0)


def to_hsv(rgb: np.ndarray) -> np.ndarray:
    """Converts a small picture to OpenCV's HSV, with hue in half degrees.

    Args:
        rgb: float32 [h, w, 3] in [0, 1].

    Returns:
        float32 [h, w, 3]: hue in [0, 180), saturation and value in [0, 255].
    """
    rgb = 255 * rgb
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


class Picture:
    """Holds a frame scaled down to about ``SIDE_PX`` pixels, on which shots are found."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.rgb = shrink(pixels[None])[0]

    @cached_property
    def hsv(self) -> np.ndarray:
        """Returns the picture's hue, saturation and value (``to_hsv``)."""
        return to_hsv(self.rgb)

    @cached_property
    def luma(self) -> np.ndarray:
        """Returns float32 [h, w]: brightness minus its mean."""
        luma = self.rgb @ _LUMA
        return luma - luma.mean()

    @cached_property
    def colour(self) -> np.ndarray:
        """Returns float32 [h, w, 3]: RGB minus the mean of all values."""
        return self.rgb - self.rgb.mean()

    @cached_property
    def powers(self) -> tuple[float, float]:
        """Returns the variances of luma and of colour, noise included."""
        return _variance(self.luma), _variance(self.colour)

    def content_change(self, other: "Picture") -> float:
        """Returns the mean absolute difference of hue, saturation and value (ContentDetector)."""
        return float(np.abs(self.hsv - other.hsv).mean())

    def structure_change(self, other: "Picture") -> float:
        """Returns 1 - correlation: 0 for another exposure, about 1 for another picture.

        It takes the lower of two correlations, that of brightness and that of colours.
        """
        pairs = (self.luma, other.luma), (self.colour, other.colour)
        least = min(
            (float(np.vdot(a, b)) / a.size + _NOISE) / math.sqrt(power * other_power)
            for (a, b), power, other_power in zip(pairs, self.powers, other.powers, strict=True)
        )
        return 1 - least

    def brightness_change(self, other: "Picture") -> float:
        """Returns the mean absolute difference, in [0, 1]."""
        return float(np.abs(self.rgb - other.rgb).mean())

    def share_of_new_blocks(self, other: "Picture") -> float:
        """Returns the share of blocks not found in the other picture within ``_SEARCH_PX``."""
        height, width = (side // _BLOCK_PX * _BLOCK_PX for side in self.luma.shape)
        shape = height // _BLOCK_PX, _BLOCK_PX, width // _BLOCK_PX, _BLOCK_PX
        blocks = self.luma[:height, :width].reshape(shape)
        means = blocks.mean(axis=(1, 3), keepdims=True)
        padded = np.pad(other.luma, _SEARCH_PX, mode="edge")
        least = np.full((shape[0], shape[2]), np.inf)
        for y in range(2 * _SEARCH_PX + 1):
            for x in range(2 * _SEARCH_PX + 1):
                others = padded[y : y + height, x : x + width].reshape(shape)
                shift = others.mean(axis=(1, 3), keepdims=True) - means
                # The mean of a block counts less than its structure, because light changes.
                apart = np.abs(others - blocks - shift).mean(axis=(1, 3))
                least = np.minimum(least, apart + 0.35 * np.abs(shift[:, 0, :, 0]))
        return float((least > _MAX_BLOCK_DIFFERENCE).mean())


def _variance(values: np.ndarray) -> float:
    return float(np.vdot(values, values)) / values.size + _NOISE


class _Shots:
    """Holds ticks of one segment until it is known whether a shot begins with them."""

    def __init__(self, cfg: ShotsConfig, fps: float) -> None:
        self._is_adaptive = cfg.name == "adaptive"
        default = _ADAPTIVE_THRESHOLD if self._is_adaptive else _CONTENT_THRESHOLD
        self._threshold = cfg.threshold or default
        self.num_around = min(max(round(_AROUND_S * fps), _FLASH_TICKS), _MAX_AROUND)
        self._waiting: deque[Tick] = deque()
        # Pictures of decided ticks, followed by those of the waiting ticks.
        self._pictures: deque[Picture] = deque()
        self._changes: deque[tuple[float, float]] = deque()

    def push(self, tick: Tick) -> None:
        # Ticks that show the same frame need no comparison.
        is_repeat = bool(self._waiting) and self._waiting[-1].source is tick.source
        picture = self._pictures[-1] if is_repeat else Picture(tick.source.pixels)
        last = self._pictures[-1] if self._pictures else picture
        is_same = last is picture
        self._changes.append(
            (0.0, 0.0)
            if is_same
            else (self._difference(last, picture), last.brightness_change(picture))
        )
        self._pictures.append(picture)
        self._waiting.append(tick)

    def decided(self, num_to_wait: int) -> Iterator[Event]:
        """Yields ticks with at least ``num_to_wait`` ticks after them, and the cuts before them."""
        while len(self._waiting) > num_to_wait:
            tick = self._waiting.popleft()
            at = len(self._pictures) - len(self._waiting) - 1
            if at > 0 and self._stands_out(at) and not self._is_flash(at):
                yield SegmentEnd(tick.time_s)
            yield tick
            if at > self.num_around:
                self._pictures.popleft()
                self._changes.popleft()

    def _difference(self, picture: Picture, other: Picture) -> float:
        if self._is_adaptive:
            return picture.structure_change(other)
        return picture.content_change(other)

    def _stands_out(self, at: int) -> bool:
        change, brightness_change = self._changes[at]
        if not self._is_adaptive:
            return change >= self._threshold
        if change < _OTHER_TAKE or brightness_change < _MIN_CHANGE:
            return False
        largest, second = self._ratios(at)
        if largest >= _OTHER_TAKE_SHARE * self._threshold:
            return True
        # One larger change nearby is allowed: it may be the next cut, as shots can be short.
        if change < _NEW_PICTURE or second < _SURE_SHARE * self._threshold:
            return False
        new_blocks = self._pictures[at].share_of_new_blocks(self._pictures[at - 1])
        if second >= self._threshold:
            return new_blocks >= _NEW_BLOCKS
        return change >= _SURELY_NEW_PICTURE and new_blocks >= _SURELY_NEW_BLOCKS

    def _ratios(self, at: int) -> tuple[float, float]:
        """Returns the ratios of a change to the largest and second largest change around it.

        Each ratio is the lower one of those of structure and of brightness.
        """
        changes = np.array(self._changes)
        first = max(1, at - self.num_around)
        around = np.concatenate([changes[first:at], changes[at + 1 : at + 1 + self.num_around]])
        # Two zeros stand for missing neighbours at the ends of a segment.
        largest = np.sort(np.concatenate([np.zeros((2, 2)), around]), axis=0)[:-3:-1]
        ratios = (_WEIGHTS * changes[at] / (largest + _FLOORS)).min(axis=1)
        return float(ratios[0]), float(ratios[1])

    def _is_flash(self, at: int) -> bool:
        """Says whether the picture from before the change is back soon, as after a flash."""
        pictures = list(self._pictures)
        before = pictures[max(0, at - _FLASH_TICKS - 1) : at]
        after = pictures[at : at + _FLASH_TICKS + 1]
        least = self._changes[at][0] / 2
        return any(self._difference(a, b) < least for a in before for b in after)
