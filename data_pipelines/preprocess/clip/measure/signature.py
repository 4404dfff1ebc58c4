"""Detects near-duplicate clips, such as one video encoded, scaled or trimmed again.

A clip's signature holds keys, some of which a duplicate shares, and small pictures at 4 per second
for comparison. Copies may be cut into clips at other times than their originals. So a clip is a
duplicate if about half of its length lies in an earlier clip, at any shift. Both must look and move
the same: two demonstrations in one scene share the background, which proves nothing. Clips that
hardly move are kept.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lafp.data.randomness import mixed

GRID = 8
"""Pictures are compared as 8 x 8 mean brightnesses."""
PERIOD_S = 0.25
"""Time between the pictures of a signature."""
NUM_KEYS = 48
MAX_MEAN_DIFFERENCE = 0.02
"""Largest mean difference of the cells of the median picture, in [0, 1]. Real videos encoded and
scaled again differ by 0.005 (median) to 0.014 (95 %), trimmed ones by 0.005 to 0.021, others by
0.034 and more."""
MAX_CELL_DIFFERENCE = 0.15
"""Largest difference of the worst cell of the median picture."""
MIN_SAME_MOTION = 0.92
"""Least correlation of the differences from each clip's mean picture, over all cells and pictures.
Copies that move have 0.94 and more (trimmed ones too); other clips of one scene up to 0.9."""
MIN_SAME_STEPS = 0.75
"""Least correlation of the steps from picture to picture: copies have 0.87 and more, others up to
0.8."""
GAINS = (0.7, 1.4)
"""Range of a brightness gain that counts as no difference. A constant added to all cells of all
pictures does not count either."""
BLACK, MAX_BORDER_RANGE = 0.15, 0.03
"""Rows and columns at the edges that are never brighter than this, in [0, 1], and of one brightness
within this range, are borders around the picture."""
_SLACK = 0.04
MIN_COVERED = 0.45
"""Share of a clip's pictures that must lie in the other clip. Clips of one video have similar
lengths, so one of them covers half of any clip that a copy cuts out of it."""
MIN_COVERED_IN_VIDEO = 0.9
"""This share for two clips of one video, because a slow scene resembles itself and a loop
repeats."""
MIN_PICTURES = 3
"""Least number of pictures that must agree; all of them if the clip has fewer."""
# A token is 24 bits of a picture's hash. Copies share a third of their originals' tokens or more,
# and two different clips hardly ever one by chance.
_BITS_PER_TOKEN, _TOKENS_PER_PICTURE = 24, 2
# Order in which cells form tokens. 29 is odd, so this is a permutation, and it scatters the cells.
_SCATTERED = (29 * np.arange(GRID * GRID)) % (GRID * GRID)


@dataclass(frozen=True, eq=False)
class Signature:
    """Describes what a clip looks like."""

    keys: np.ndarray
    """uint32 [NUM_KEYS]: a MinHash of the tokens of all frames. The share of keys on which two
    clips agree estimates the share of tokens that they have in common."""
    pictures: np.ndarray
    """uint8 [N, GRID * GRID], ``PERIOD_S`` apart."""

    @cached_property
    def levels(self) -> np.ndarray:
        """Returns float64 [N, GRID * GRID]: ``pictures`` scaled to [0, 1]."""
        return self.pictures / 255

    @cached_property
    def centred(self) -> np.ndarray:
        """Returns int16 [N, GRID * GRID]: each picture minus its mean, which is rounded."""
        sums = self.pictures.sum(axis=1, dtype=np.int32, keepdims=True)
        return self.pictures - np.rint(sums / GRID**2).astype(np.int16)

    @cached_property
    def blocks(self) -> np.ndarray:
        """Returns int16 [N, GRID * GRID / 4]: ``centred``, summed over blocks of 2 x 2 cells."""
        rows = self.centred.reshape(-1, GRID // 2, 2, GRID)
        halves = rows[:, :, 0] + rows[:, :, 1]
        return (halves[..., ::2] + halves[..., 1::2]).reshape(len(rows), -1)

    @cached_property
    def steps(self) -> np.ndarray:
        """Returns float64 [N]: mean absolute difference to the next picture; 0 for the last."""
        steps = np.abs(np.diff(self.pictures.astype(np.int16), axis=0)).sum(axis=1, dtype=np.int32)
        return np.append(steps, 0) / (255 * GRID**2)

    def to_hex(self) -> str:
        """Returns the signature as a hex string, the form in rows."""
        # The byte order is fixed, because rows of other machines are compared with these.
        return (self.keys.astype("<u4").tobytes() + self.pictures.tobytes()).hex()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Signature":
        """Restores a signature from the bytes that ``to_hex`` encodes."""
        pictures = np.frombuffer(data, np.uint8, offset=4 * NUM_KEYS).reshape(-1, GRID * GRID)
        return cls(np.frombuffer(data, "<u4", count=NUM_KEYS), pictures)


def signature(small: np.ndarray, fps: float) -> Signature:
    """Computes the signature of a clip.

    Args:
        small: float32 [T, h, w, 3] in [0, 1], T >= 1, h and w at least ``GRID``.
        fps: Rate of the clip.
    """
    # Brightness alone is compared, within black borders, so that other colours or bars hide no
    # copy.
    cells = _grid_means(small.mean(axis=-1)).reshape(len(small), -1)
    # Means over two periods change slowly enough that pictures in between can be interpolated.
    times_s = np.arange(0, len(small) / fps - 1e-9, PERIOD_S)
    first = np.maximum(np.round((times_s - PERIOD_S) * fps), 0).astype(int)
    after = np.minimum(np.round((times_s + PERIOD_S) * fps) + 1, len(small)).astype(int)
    sums = np.insert(np.cumsum(cells, axis=0), 0, 0.0, axis=0)
    shown = (sums[after] - sums[first]) / (after - first)[:, None]
    return Signature(
        _min_hashes(_tokens(cells)), np.round(255 * shown).clip(0, 255).astype(np.uint8)
    )


def is_duplicate(clip: Signature, other: Signature, min_covered: float = MIN_COVERED) -> bool:
    """Says whether ``min_covered`` of a clip lies in another one.

    The shift is found first on the grid of ``PERIOD_S``, then in steps of a quarter of it, for
    which pictures are interpolated.
    """
    pictures, others = clip.levels, other.levels
    num_needed = max(int(np.ceil(min_covered * len(pictures))), min(MIN_PICTURES, len(pictures)))
    if len(others) < num_needed:
        return False
    # By the triangle inequality, a picture that agrees with an interpolation between two others is
    # this close to the first of them, and blocks of cells are no further apart than their cells.
    # Most clips that share a key by chance are dismissed here, by blocks at a third of the cost.
    nearest = MAX_MEAN_DIFFERENCE + _SLACK + other.steps
    for cells, other_cells in ((clip.blocks, other.blocks), (clip.centred, other.centred)):
        differences = mean_differences(cells, other_cells)
        # Half of the pictures are enough here, because ``_is_same`` decides by medians.
        if 2 * (differences <= nearest).any(axis=1).sum() < num_needed:
            return False
    shift = _best_shift(differences, num_needed)
    # The two clips were sampled at other moments, so shifts by quarters of a period are tried.
    for fine in shift + np.arange(-4, 5) / 4:
        positions = np.arange(len(pictures)) + fine
        inside = (positions >= 0) & (positions <= len(others) - 1)
        if inside.sum() < num_needed:
            continue
        if _is_same(pictures[inside], _interpolated(others, positions[inside])):
            return True
    return False


def mean_differences(cells: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the difference of each picture to each other one, float64 [N, M] in [0, 1]."""
    # Small integers, summed over the first axis, are twenty times as fast as floats. The largest
    # sum, of 64 differences of 510, fits.
    gaps = np.abs(cells.T[:, :, None] - others.T[:, None])
    return gaps.sum(axis=0, dtype=np.int16) / (255 * GRID**2)


def _is_same(pictures: np.ndarray, others: np.ndarray) -> bool:
    """Says whether pictures of the same times, float64 [N, cells], look and move the same."""
    moved, others_moved = pictures - pictures.mean(axis=0), others - others.mean(axis=0)
    if (
        _correlation(moved, others_moved) < MIN_SAME_MOTION
        or _correlation(np.diff(moved, axis=0), np.diff(others_moved, axis=0)) < MIN_SAME_STEPS
    ):
        return False
    # Copies with another colour range are a little darker or brighter everywhere.
    centred, others_centred = pictures - pictures.mean(), others - others.mean()
    power = np.square(others_centred).sum()
    gain = np.clip((centred * others_centred).sum() / max(power, 1e-9), *GAINS)
    difference = pictures - gain * others
    apart = np.abs(difference - np.median(difference))
    return bool(
        np.median(apart.mean(axis=1)) <= MAX_MEAN_DIFFERENCE
        and np.median(apart.max(axis=1)) <= MAX_CELL_DIFFERENCE
    )


def _correlation(values: np.ndarray, others: np.ndarray) -> float:
    """Returns the correlation of two arrays; 0 if one of them holds only zeros."""
    power = np.square(values).sum() * np.square(others).sum()
    return float((values * others).sum() / np.sqrt(power)) if power else 0.0


def _borders(pictures: np.ndarray) -> list[tuple[float, float]]:
    """Finds where the picture begins and ends between black borders, vertically and horizontally.

    Args:
        pictures: float32 [N, h, w].
    """
    spans = []
    for axes in ((0, 2), (0, 1)):
        least, brightest = pictures.min(axis=axes), pictures.max(axis=axes)
        is_black = (brightest <= BLACK) & (brightest - least <= MAX_BORDER_RANGE)
        lit, num = np.flatnonzero(~is_black), len(is_black)
        if not len(lit) or lit[-1] + 1 - lit[0] < max(GRID, num / 2):
            spans.append((0.0, float(num)))
            continue
        # A border that ends within a pixel leaves that pixel darker than the next one.
        mean = pictures.mean(axis=axes) + 1e-6
        first, last = int(lit[0]), int(lit[-1])
        dark_top = max(0.0, 1 - mean[first] / mean[first + 1]) if first else 0.0
        dark_end = max(0.0, 1 - mean[last] / mean[last - 1]) if last < num - 1 else 0.0
        spans.append((first + dark_top, last + 1 - dark_end))
    return spans


def _best_shift(differences: np.ndarray, num_needed: int) -> int:
    """Returns the diagonal with the least mean: differences [i, i + shift]."""
    num, num_others = differences.shape
    # Row i is moved to the right by num - i, so that diagonals become columns.
    skewed = np.full((num, num + num_others), np.nan)
    columns = np.arange(num_others) + (num - np.arange(num))[:, None]
    np.put_along_axis(skewed, columns, differences, axis=1)
    is_there = ~np.isnan(skewed)
    counts = is_there.sum(axis=0)
    means = np.where(is_there, skewed, 0).sum(axis=0) / np.maximum(counts, 1)
    return int(np.where(counts >= num_needed, means, np.inf).argmin()) - num


def _interpolated(pictures: np.ndarray, positions: np.ndarray) -> np.ndarray:
    before = np.clip(positions.astype(int), 0, max(len(pictures) - 2, 0))
    after = np.minimum(before + 1, len(pictures) - 1)
    share = (positions - before)[:, None]
    return pictures[before] * (1 - share) + pictures[after] * share


def _tokens(cells: np.ndarray) -> np.ndarray:
    """Returns the distinct tokens of all pictures, uint64 [M]: which cells exceed the median."""
    bits = (cells > np.median(cells, axis=1, keepdims=True))[:, _SCATTERED]
    weights = 1 << np.arange(_BITS_PER_TOKEN)
    # A token carries its place in the picture, so that equal bits of other cells never agree.
    tokens = [
        (bits[:, i * _BITS_PER_TOKEN : (i + 1) * _BITS_PER_TOKEN] @ weights)
        * _TOKENS_PER_PICTURE + i
        for i in range(_TOKENS_PER_PICTURE)
    ]  # fmt: skip
    return np.unique(np.concatenate(tokens)).astype(np.uint64)


def _min_hashes(tokens: np.ndarray) -> np.ndarray:
    """Returns the smallest of each of ``NUM_KEYS`` hashes. Keys of different hashes never agree."""
    seeds = mixed(np.arange(1, NUM_KEYS + 1, dtype=np.uint64))
    smallest = mixed(tokens[:, None] ^ seeds).min(axis=0)
    return (mixed(smallest ^ seeds) >> np.uint64(32)).astype(np.uint32)


def _grid_means(pictures: np.ndarray) -> np.ndarray:
    """Averages equal cells of the area between borders: float32 [N, h, w] -> [N, GRID, GRID]."""
    rows, columns = (
        _cell_weights(start, end, num)
        for (start, end), num in zip(_borders(pictures), pictures.shape[1:], strict=True)
    )
    return rows @ pictures @ columns.T


def _cell_weights(start: float, end: float, num: int) -> np.ndarray:
    """Computes how much each of ``num`` pixels counts in each of equal cells: float32 [GRID, num].

    Cells may begin and end within pixels, so that they are equal whatever the size of the picture.
    """
    edges = np.linspace(start, end, GRID + 1)
    pixels = np.arange(num)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (inside.clip(0) * GRID / (end - start)).astype(np.float32)
