"""Find shot cuts, so that no clip goes across one. Streaming: a few small pictures in memory."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.resample import Event, SegmentEnd, Tick

_CONTENT_THRESHOLD, _ADAPTIVE_THRESHOLD = 27.0, 2.0
# A change is compared with those within this time: pictures that are held for 0.3 s jump too.
_AROUND_S, _MAX_AROUND = 0.45, 30
# Ticks that a flash lasts at most.
_FLASH_TICKS = 2
# Least difference of mean brightness: darkness has no structure to compare.
_MIN_CHANGE = 0.03
# A new picture is unlike the one before in structure, and most of its blocks lie nowhere near.
_NEW_PICTURE, _NEW_BLOCKS = 0.4, 0.5
# Where all around moves fast, only what is surely new counts: by less than the usual ratio.
_SURELY_NEW_PICTURE, _SURELY_NEW_BLOCKS, _SURE_SHARE = 0.6, 0.8, 0.7
# In a still scene a cut to another take moves only what moves there, at once and by much more.
_OTHER_TAKE, _OTHER_TAKE_SHARE = 0.08, 1.5
# Noise that correlations allow for, as a variance of brightness.
_NOISE = 0.02**2
# What is added to changes before they are compared, and how much their ratios count: in structure,
# in brightness.
_FLOORS, _WEIGHTS = (0.02, 0.01), (1.0, 1.2)
_BLOCK_PX, _SEARCH_PX, _MAX_BLOCK_DIFFERENCE = 4, 3, 0.04
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """How shot cuts are found, on the frames of the clips' rate."""

    name: Literal["content", "adaptive"] = "adaptive"
    """adaptive cuts where the structure of the picture changes more than around, which neither
    motion nor another exposure does; content (PySceneDetect's ContentDetector) where neighbouring
    frames differ by ``threshold``."""
    threshold: float | None = None
    """adaptive: ratio of a cut's change to those around it (default 2).
    content: mean difference of hue, saturation and value, in levels of 255 (default 27)."""

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold <= 0:
            raise ValueError(f"shots.threshold must be positive or null, got {self.threshold}.")


def cut_at_shots(events: Iterable[Event], cfg: ShotsConfig, fps: float) -> Iterator[Event]:
    """Passes events on and ends the segment wherever a shot begins.

    Args:
        events: What ``resample`` yields.
        cfg: Which changes are cuts.
        fps: Of the ticks.
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
    """A small picture in OpenCV's HSV: hue in half degrees.

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
    """A frame as shots are found on it: about ``SIDE_PX`` pixels high or wide."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.rgb = shrink(pixels[None])[0]

    @cached_property
    def hsv(self) -> np.ndarray:
        """As ``to_hsv`` says."""
        return to_hsv(self.rgb)

    @cached_property
    def luma(self) -> np.ndarray:
        """float32 [h, w]: brightness less its mean."""
        luma = self.rgb @ _LUMA
        return luma - luma.mean()

    @cached_property
    def colour(self) -> np.ndarray:
        """float32 [h, w, 3]: less the mean of all."""
        return self.rgb - self.rgb.mean()

    @cached_property
    def powers(self) -> tuple[float, float]:
        """Variances of luma and colour, and of the noise in them."""
        return _variance(self.luma), _variance(self.colour)

    def content_change(self, other: "Picture") -> float:
        """Mean absolute difference over hue, saturation and value (ContentDetector's weights)."""
        return float(np.abs(self.hsv - other.hsv).mean())

    def structure_change(self, other: "Picture") -> float:
        """1 - correlation: 0 for another exposure, about 1 for another picture.

        The lower correlation counts, that of brightness or that of colours.
        """
        pairs = (self.luma, other.luma), (self.colour, other.colour)
        least = min(
            (float(np.vdot(a, b)) / a.size + _NOISE) / math.sqrt(power * other_power)
            for (a, b), power, other_power in zip(pairs, self.powers, other.powers, strict=True)
        )
        return 1 - least

    def brightness_change(self, other: "Picture") -> float:
        """Mean absolute difference, in [0, 1]."""
        return float(np.abs(self.rgb - other.rgb).mean())

    def share_of_new_blocks(self, other: "Picture") -> float:
        """Share of blocks that lie in the other picture neither here nor ``_SEARCH_PX`` away."""
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
                # The mean of a block says less than its structure: light changes.
                apart = np.abs(others - blocks - shift).mean(axis=(1, 3))
                least = np.minimum(least, apart + 0.35 * np.abs(shift[:, 0, :, 0]))
        return float((least > _MAX_BLOCK_DIFFERENCE).mean())


def _variance(values: np.ndarray) -> float:
    return float(np.vdot(values, values)) / values.size + _NOISE


class _Shots:
    """Ticks of one segment, as long as it is open whether a shot begins with them."""

    def __init__(self, cfg: ShotsConfig, fps: float) -> None:
        self._is_adaptive = cfg.name == "adaptive"
        default = _ADAPTIVE_THRESHOLD if self._is_adaptive else _CONTENT_THRESHOLD
        self._threshold = cfg.threshold or default
        self.num_around = min(max(round(_AROUND_S * fps), _FLASH_TICKS), _MAX_AROUND)
        self._waiting: deque[Tick] = deque()
        # The last ones are those of the waiting ticks; before them lie decided ones.
        self._pictures: deque[Picture] = deque()
        self._changes: deque[tuple[float, float]] = deque()

    def push(self, tick: Tick) -> None:
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
        """Yields ticks that have ``num_to_wait`` others behind them, and the cuts before them."""
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
        # One larger change nearby may be the next cut: shots can be short.
        if change < _NEW_PICTURE or second < _SURE_SHARE * self._threshold:
            return False
        new_blocks = self._pictures[at].share_of_new_blocks(self._pictures[at - 1])
        if second >= self._threshold:
            return new_blocks >= _NEW_BLOCKS
        return change >= _SURELY_NEW_PICTURE and new_blocks >= _SURELY_NEW_BLOCKS

    def _ratios(self, at: int) -> tuple[float, float]:
        """How much larger a change is than the largest and the second largest around it.

        Structure and brightness are taken apart, and the lower ratio counts.
        """
        changes = np.array(self._changes)
        first = max(1, at - self.num_around)
        around = np.concatenate([changes[first:at], changes[at + 1 : at + 1 + self.num_around]])
        largest = np.sort(np.concatenate([np.zeros((2, 2)), around]), axis=0)[:-3:-1]
        ratios = (_WEIGHTS * changes[at] / (largest + _FLOORS)).min(axis=1)
        return float(ratios[0]), float(ratios[1])

    def _is_flash(self, at: int) -> bool:
        """A flash comes and goes: what was before is there again soon after."""
        pictures = list(self._pictures)
        before = pictures[max(0, at - _FLASH_TICKS - 1) : at]
        after = pictures[at : at + _FLASH_TICKS + 1]
        least = self._changes[at][0] / 2
        return any(self._difference(a, b) < least for a in before for b in after)
