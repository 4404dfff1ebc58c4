"""Measures motion and brightness of clips on small pictures, and rejects clips by both."""

import math
from dataclasses import dataclass

import numpy as np

SIDE_PX = 32
"""Approximate side of the small pictures: noise averages out, but objects still move by pixels."""


@dataclass(frozen=True, kw_only=True)
class FiltersConfig:
    """Rejects clips of web video. Demonstrations need no filters: every one of them counts."""

    min_motion: float | None = None
    """Clips whose median motion is below this are rejected as static. Unit: mean absolute
    difference of neighbouring frames, with pixels in [0, 1]."""
    min_brightness: float | None = None
    """Clips whose median frame has a mean brightness below this, in [0, 1], are rejected."""
    drop_duplicates: bool = False
    """Keeps one of all clips of the source that look and move alike."""
    against: tuple[str, ...] = ()
    """Finished shard sets, local or remote. Files and clips of the source that repeat one of theirs
    are dropped too. The sets must have been made with `drop_duplicates`, which this needs here as
    well."""

    def __post_init__(self) -> None:
        for name in ("min_motion", "min_brightness"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1] or null, got {value}.")
        if self.against and not self.drop_duplicates:
            raise ValueError(
                "against names shard sets, but drop_duplicates is false, so nothing would be "
                "compared with them. Set drop_duplicates=true, or leave against out."
            )


def shrink(frames: np.ndarray) -> np.ndarray:
    """Scales the frames of a clip down by averaging blocks.

    Args:
        frames: uint8 [T, H, W, 3].

    Returns:
        float32 [T, h, w, 3] in [0, 1], h and w about ``SIDE_PX``.
    """
    block = max(1, min(frames.shape[1:3]) // SIDE_PX)
    height, width = frames.shape[1] // block, frames.shape[2] // block
    # Sums of strided slices: three times as fast as one mean over a reshaped array.
    rows = np.zeros((len(frames), height, width * block, 3), np.uint16)
    for i in range(block):
        rows += frames[:, i : height * block : block, : width * block]
    cells = np.zeros((len(frames), height, width, 3), np.uint32)
    for i in range(block):
        cells += rows[:, :, i::block]
    return cells.astype(np.float32) / (255 * block * block)


def pair_motion(small: np.ndarray, step_frames: int = 1) -> np.ndarray:
    """Computes the motion of every pair (t, t + step).

    Args:
        small: float32 [T, h, w, 3] in [0, 1].
        step_frames: Distance of the two frames of a pair.

    Returns:
        float32 [T - step]: mean absolute difference, in [0, 1].
    """
    return np.abs(small[step_frames:] - small[:-step_frames]).mean(axis=(1, 2, 3))


def rounded(pairs: np.ndarray) -> tuple[int, ...]:
    """Rounds ``pair_motion`` to whole 1/10,000, the unit in a clip's record."""
    return tuple(np.round(10_000 * pairs).astype(int).tolist())


def median_motion(small: np.ndarray, fps: float, source_fps: float) -> float:
    """Returns the median of ``pair_motion``; 0 for clips that are too short for a pair.

    It compares neighbouring frames. If a clip repeats frames because its rate exceeds its source's,
    it compares frames as far apart as the source's, because such repeats are not stillness.
    """
    # Measured rates are not exact: 30 / 29.99 must not become a step of 2.
    step_frames = max(1, math.ceil(fps / source_fps - 1e-3))
    motion = pair_motion(small, step_frames)
    return float(np.median(motion)) if len(motion) else 0.0


def violation(small: np.ndarray, motion: float, cfg: FiltersConfig) -> tuple[str, str] | None:
    """Returns reason and detail of the filter that a clip fails, or None."""
    brightness = float(np.median(small.mean(axis=(1, 2, 3))))
    if cfg.min_brightness is not None and brightness < cfg.min_brightness:
        return "dark", f"median brightness {brightness:.4f}"
    if cfg.min_motion is not None and motion < cfg.min_motion:
        return "static", f"median motion {motion:.5f}"
    return None
