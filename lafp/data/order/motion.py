"""Computes how often clips are visited, by their motion."""

from collections.abc import Sequence

import numpy as np

from lafp import storage
from lafp.data.randomness import keyed_uniform
from lafp.data.shards.format import ClipLocation
from lafp.storage.tables import read_table

MAX_WEIGHT = 8.0
"""A clip is visited at most this often per epoch, and at least once in this many epochs."""


class MotionWeights:
    """Holds a clip's average visits per epoch: its motion to a power, scaled to a mean of 1.

    It takes 12 bytes of memory per clip of the split.

    Args:
        uri: URI of the shard set.
        split: The split.
        power: 0 weighs all clips alike, 1 in proportion to their motion.
    """

    def __init__(self, uri: str, split: str, power: float) -> None:
        table = read_table(storage.join(uri, "clips.parquet"), ["clip_id", "motion", "split"])
        is_ours = np.array(table["split"]) == split
        ids = np.array(table["clip_id"])[is_ours]
        motion = np.array(table["motion"], np.float64)[is_ours]
        # Still clips have a motion of 0, which a negative power would turn into infinity.
        weights = np.maximum(motion, 1e-6) ** power
        weights = np.clip(weights / weights.mean(), 1 / MAX_WEIGHT, MAX_WEIGHT)
        # These are the bits of ``ClipLocation.key``, by which ``of`` looks clips up.
        keys = np.array([int(clip_id[:16], 16) >> 1 for clip_id in ids], np.int64)
        order = np.argsort(keys)
        self._keys, self._weights = keys[order], weights[order].astype(np.float32)

    def of(self, clips: Sequence[ClipLocation]) -> np.ndarray:
        """Returns the weights of a shard's clips, float64, scaled so that their sum is whole."""
        keys = np.array([clip.key for clip in clips], np.int64)
        weights = self._weights[np.searchsorted(self._keys, keys)].astype(np.float64)
        # A whole sum makes the number of visits to a shard the same in every epoch, so that
        # positions can be computed.
        return weights * (max(1, round(weights.sum())) / weights.sum())


def num_visits(weights: np.ndarray, *keys: int) -> np.ndarray:
    """Draws whole numbers with the given means: each is its mean, rounded up or down.

    Systematic sampling: the sum always equals the sum of the means, which must be whole.

    Args:
        weights: Means, float64 [N].
        *keys: Keys of the draw.

    Returns:
        int64 [N].
    """
    edges = np.concatenate([[0.0], np.cumsum(weights)])
    # The sum is whole but for rounding errors, by which ``floor`` could lose a visit.
    edges[-1] = round(edges[-1])
    return np.diff(np.floor(edges + keyed_uniform(*keys)).astype(np.int64))
