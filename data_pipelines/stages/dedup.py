"""Near-duplicates: clips that look and move alike, such as one video encoded twice."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

NUM_SAMPLES = 4
"""Frames of a clip that are compared: early and late ones, so motion counts too."""
GRID = 8
"""Each as 8 x 8 mean colours."""
MAX_MEAN_DIFFERENCE = 0.02
"""Of all cells, in [0, 1]. Encoding again costs 0.01, another scene differs by 0.04 and more."""
MAX_CELL_DIFFERENCE = 0.1
"""Of any one cell: two demonstrations in one scene differ only where the robot is."""
_NUM_BANDS = 16


def signature(small: np.ndarray) -> str:
    """What a clip looks like at four times.

    Args:
        small: float32 [T, h, w, 3] in [0, 1], T >= 1.

    Returns:
        Hex digits of uint8 [NUM_SAMPLES, GRID, GRID, 3].
    """
    times = (np.arange(NUM_SAMPLES) + 0.5) / NUM_SAMPLES * len(small)
    cells = _grid_means(small[times.astype(int)])
    return np.round(255 * cells).astype(np.uint8).tobytes().hex()


def is_duplicate(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two clips are alike, given the cells of their signatures (float, in [0, 1])."""
    difference = np.abs(a - b)
    return bool(
        difference.mean() <= MAX_MEAN_DIFFERENCE and difference.max() <= MAX_CELL_DIFFERENCE
    )


def find_duplicates(clips: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Which clips repeat an earlier one.

    A clip is compared to those kept so far that share 16 bits of an average hash with it: the
    hash has 256 bits (which cells are brighter than their frame), of which duplicates differ in
    about 10. The result depends on the order of ``clips`` only.

    Args:
        clips: (clip id, signature), the preferred ones first.

    Returns:
        Clip id of each duplicate -> clip id that is kept in its place.
    """
    kept: list[tuple[str, np.ndarray]] = []
    kept_by_band: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    duplicates = {}
    for clip_id, digits in clips:
        cells = _cells(digits)
        bands = list(enumerate(_bands(cells)))
        candidates = sorted({i for band in bands for i in kept_by_band[band]})
        original = next((kept[i][0] for i in candidates if is_duplicate(cells, kept[i][1])), None)
        if original is not None:
            duplicates[clip_id] = original
            continue
        for band in bands:
            kept_by_band[band].append(len(kept))
        kept.append((clip_id, cells))
    return duplicates


def _cells(digits: str) -> np.ndarray:
    cells = np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(NUM_SAMPLES, GRID, GRID, 3)
    return cells.astype(np.float32) / 255


def _bands(cells: np.ndarray) -> list[bytes]:
    grey = cells.mean(axis=-1)
    bits = grey > grey.mean(axis=(1, 2), keepdims=True)
    return [band.tobytes() for band in np.packbits(bits).reshape(_NUM_BANDS, -1)]


def _grid_means(pictures: np.ndarray) -> np.ndarray:
    """Float32 [N, h, w, 3] -> [N, GRID, GRID, 3] means of cells; h and w are at least GRID."""
    height, width = pictures.shape[1:3]
    rows = np.linspace(0, height, GRID + 1).astype(int)
    columns = np.linspace(0, width, GRID + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(pictures, rows[:-1], axis=1), columns[:-1], axis=2)
    return sums / (np.diff(rows)[:, None] * np.diff(columns))[..., None]
