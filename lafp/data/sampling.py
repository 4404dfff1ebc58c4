"""Which clips are visited how often: by their motion, and over several shard sets by weight."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lafp import storage
from lafp.data.randomness import derive_seed, keyed_permutation, keyed_uniform
from lafp.data.shard_format import ClipLocation

if TYPE_CHECKING:
    from lafp.data.shards import ClipOrder, ClipRef

MAX_WEIGHT = 8.0
"""A clip is visited at most so often per epoch, and at least once in so many epochs."""
MIX_PERIOD = 1024
"""Positions in which every shard set of a mixture has its exact share."""
_MIX = derive_seed("mix")


class MotionWeights:
    """Visits per epoch that a clip gets on average: its motion to a power, 1 in the mean.

    Memory holds 12 bytes per clip of the split.

    Args:
        uri: Of the shard set.
        split: Whose clips.
        power: 0 weighs all clips alike, 1 in proportion to their motion.
    """

    def __init__(self, uri: str, split: str, power: float) -> None:
        import pyarrow.parquet as pq

        with storage.local_file(storage.join(uri, "clips.parquet")) as path:
            table = pq.read_table(path, columns=["clip_id", "motion", "split"])
        is_ours = np.array(table["split"]) == split
        ids = np.array(table["clip_id"])[is_ours]
        motion = np.array(table["motion"], np.float64)[is_ours]
        weights = np.maximum(motion, 1e-6) ** power
        weights = np.clip(weights / weights.mean(), 1 / MAX_WEIGHT, MAX_WEIGHT)
        keys = np.array([int(clip_id[:16], 16) >> 1 for clip_id in ids], np.int64)
        order = np.argsort(keys)
        self._keys, self._weights = keys[order], weights[order].astype(np.float32)

    def of(self, clips: Sequence[ClipLocation]) -> np.ndarray:
        """Of the clips of one shard, float64, scaled so that their sum is a whole number."""
        keys = np.array([clip.key for clip in clips], np.int64)
        weights = self._weights[np.searchsorted(self._keys, keys)].astype(np.float64)
        return weights * (max(1, round(weights.sum())) / weights.sum())


def num_visits(weights: np.ndarray, *keys: int) -> np.ndarray:
    """Draws whole numbers with the given means: each is its mean, rounded up or down.

    Systematic sampling: the sum is always that of the means, which must be whole.

    Args:
        weights: Means, float64 [N].
        *keys: Of the draw.

    Returns:
        int64 [N].
    """
    edges = np.concatenate([[0.0], np.cumsum(weights)])
    edges[-1] = round(edges[-1])
    return np.diff(np.floor(edges + keyed_uniform(*keys)).astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class MixedOrder:
    """Several clip orders as one endless sequence, each with its share of the positions.

    Every ``MIX_PERIOD`` positions hold exactly each part's share, in an order of their own. So the
    cursor stays one number, and each part keeps its own epochs: within a part's epoch no clip is
    lost and none comes twice, however often the other parts have been through.
    """

    parts: tuple["ClipOrder", ...]
    weights: tuple[float, ...]
    """Positive; their sum is of no matter."""
    seed: int
    _quotas: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shares = np.array(self.weights) / sum(self.weights) * MIX_PERIOD
        quotas = np.maximum(1, np.floor(shares)).astype(np.int64)
        for i in np.argsort(np.floor(shares) - shares, kind="stable"):  # largest remainders first
            quotas[i] += quotas.sum() < MIX_PERIOD
        quotas[np.argmax(quotas)] += MIX_PERIOD - quotas.sum()
        object.__setattr__(self, "_quotas", quotas)

    @property
    def shard_sets(self) -> tuple[str, ...]:
        """URIs of all parts."""
        return tuple(part.shard_set for part in self.parts)

    @property
    def num_clips(self) -> int:
        """Of one epoch of every part."""
        return sum(part.num_clips for part in self.parts)

    def visits(self, start: int = 0) -> Iterator["ClipRef"]:
        """Endless visits from position ``start`` of the sequence."""
        period, offset = divmod(start, MIX_PERIOD)
        done = np.bincount(self._pattern(period)[:offset], minlength=len(self.parts))
        sources = [
            part.visits(int(period * quota + num))
            for part, quota, num in zip(self.parts, self._quotas, done, strict=True)
        ]
        while True:
            for part in self._pattern(period)[offset:]:
                yield next(sources[part])
            period, offset = period + 1, 0

    def _pattern(self, period: int) -> np.ndarray:
        parts = np.repeat(np.arange(len(self.parts)), self._quotas)
        return parts[keyed_permutation(MIX_PERIOD, self.seed, _MIX, period)]
