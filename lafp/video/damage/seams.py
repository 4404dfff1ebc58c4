"""Tells pictures whose blocks do not fit together, next to pictures that are known to be damaged.

Damage that hides in valid codes of JPEG or MPEG mostly moves one block, or all blocks of a row from
one on, so a seam appears along them. Sound pictures have such seams too, where an
edge lies along blocks by chance. So a seam counts only if the picture before has none at the place
and if it is much larger than the largest seams of the pictures around.
"""

from collections import deque

import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane

_BLOCK_PX = 8
# Blocks along a seam: a short one around few blocks, and a long one up to a restart marker. Between
# blocks of a row there is only the seam where the damage begins.
_NUM_BESIDE, _NUM_ABOVE = (1,), (4, 16)
_NUM_REMEMBERED, _FEWEST_REMEMBERED = 50, 6
_LEAST_LEVELS = 1.0  # of 255: a smaller step is no seam


class Seams:
    """Compares the seams of each picture with those of the pictures before.

    Args:
        most_times: A larger seam than so many times the median of other pictures counts.
    """

    def __init__(self, most_times: float) -> None:
        self._most_times = most_times
        self._before: list[np.ndarray] = []
        self._largest: deque[list[float]] = deque(maxlen=_NUM_REMEMBERED)

    def is_torn(self, frame: VideoFrame) -> bool:
        """Says whether a picture has much larger seams than most pictures before."""
        if not _has_planes_of_bytes(frame):
            return False
        seams = [found for plane in frame.planes for found in _seams_of(_pixels(plane))]
        before, self._before = self._before, seams
        if [found.shape for found in before] != [found.shape for found in seams]:
            self._largest.clear()
            return False
        largest = [_largest_new(*pair) for pair in zip(seams, before, strict=True)]
        usual = np.median(self._largest, axis=0) if self._largest else np.zeros(len(largest))
        self._largest.append(largest)
        limits = self._most_times * (usual + _LEAST_LEVELS) - _LEAST_LEVELS
        return len(self._largest) > _FEWEST_REMEMBERED and bool((largest > limits).any())


def _has_planes_of_bytes(frame: VideoFrame) -> bool:
    parts = frame.format.components
    return len(frame.planes) == len(parts) and all(part.bits == 8 for part in parts)


def _pixels(plane: VideoPlane) -> np.ndarray:
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width].astype(np.float32)


def _seams_of(pixels: np.ndarray) -> list[np.ndarray]:
    """Returns float32 [borders, places] for each direction and number of blocks along a seam.

    Args:
        pixels: float32 [H, W], one plane.
    """
    ways = ((pixels, _NUM_ABOVE), (pixels.T, _NUM_BESIDE))
    return [_along(_steps(way), num) for way, nums in ways for num in nums]


def _steps(pixels: np.ndarray) -> np.ndarray:
    """Returns by how much pixels below each border of blocks lie above what the slope explains."""
    height, width = (size // _BLOCK_PX * _BLOCK_PX for size in pixels.shape)
    below = np.arange(_BLOCK_PX, height, _BLOCK_PX)
    a, b, c, d = (pixels[below + shift, :width] for shift in (-2, -1, 0, 1))
    steps = (c - b) - 0.5 * ((b - a) + (d - c))
    return steps.reshape(len(below), width // _BLOCK_PX, _BLOCK_PX).mean(axis=2)


def _along(steps: np.ndarray, num_blocks: int) -> np.ndarray:
    """Returns the means of so many blocks in a row."""
    if steps.shape[1] < num_blocks:
        return steps[:, :0]
    sums = np.cumsum(np.pad(steps, ((0, 0), (1, 0))), axis=1)
    return (sums[:, num_blocks:] - sums[:, :-num_blocks]) / num_blocks


def _largest_new(seams: np.ndarray, before: np.ndarray) -> float:
    """Returns the largest seam that the picture before did not have."""
    return float(np.minimum(np.abs(seams), np.abs(seams - before)).max(initial=0.0))
