"""Computes how often clips are visited, by their motion."""

from collections.abc import Sequence

import numpy as np

from lafp.data.randomness import keyed_uniform
from lafp.data.shards.clip_tables import clip_batches
from lafp.data.shards.format import ClipLocation, clip_key
from lafp.storage.columns import numbers

MAX_WEIGHT = 8.0
"""A clip is visited at most this often per epoch, and at least once in this many epochs."""


class MotionWeights:
    """Holds a clip's average visits per epoch: its motion to a power, scaled to a mean of 1.

    It takes 12 bytes of memory per clip of the split.

    Args:
        keys: ``ClipLocation.key`` of the clips, int64 [N].
        weights: Float32 [N].
    """

    def __init__(self, keys: np.ndarray, weights: np.ndarray) -> None:
        order = np.argsort(keys)
        self._keys, self._weights = keys[order], weights[order]

    def of(self, clips: Sequence[ClipLocation]) -> np.ndarray:
        """Returns the weights of a shard's clips, float64, scaled so that their sum is whole."""
        keys = np.array([clip.key for clip in clips], np.int64)
        weights = self._weights[np.searchsorted(self._keys, keys)].astype(np.float64)
        # A whole sum makes the number of visits to a shard the same in every epoch, so that
        # positions can be computed.
        return weights * (max(1, round(weights.sum())) / weights.sum())


def motion_weights(
    uri: str, split: str, power: float, only_clips: frozenset[str] | None = None
) -> tuple[MotionWeights, dict[str, int]]:
    """Reads the weights of a split's clips.

    Args:
        uri: URI of the shard set.
        split: The split.
        power: 0 weighs all clips alike, 1 in proportion to their motion.
        only_clips: Ids of the clips to visit; None visits all. The mean is that of all clips.

    Returns:
        The weights, and the visits to each shard in an epoch.
    """
    at: dict[str, int] = {}  # shard -> its number
    columns = {"clip_id": str, "shard": str, "motion": float}
    keys, motions, shards, are_visited = [], [], [], []
    for batch in clip_batches(uri, columns, {"split": split}):
        ids = batch["clip_id"].to_pylist()
        keys.append(np.fromiter(map(clip_key, ids), np.int64, len(ids)))
        motions.append(numbers(batch["motion"]))
        names = batch["shard"].dictionary_encode()
        known = [at.setdefault(name, len(at)) for name in names.dictionary.to_pylist()]
        shards.append(np.array(known, np.int32)[numbers(names.indices)])
        are_visited.append(np.array([only_clips is None or clip in only_clips for clip in ids]))
    if not keys:
        return MotionWeights(np.zeros(0, np.int64), np.zeros(0, np.float32)), {}
    # Still clips have a motion of 0, which a negative power would turn into infinity.
    scaled = np.maximum(np.concatenate(motions), 1e-6) ** power
    weights = np.clip(scaled / scaled.mean(), 1 / MAX_WEIGHT, MAX_WEIGHT).astype(np.float32)
    shard, is_visited = np.concatenate(shards), np.concatenate(are_visited)
    # Exact in any order: these weights are multiples of 2^-26, and float64 holds 53 bits.
    sums = np.bincount(shard[is_visited], weights[is_visited], len(at))
    has_clips = np.bincount(shard[is_visited], minlength=len(at)) > 0
    visits = {
        name: max(1, round(total))
        for name, total, is_any in zip(at, sums.tolist(), has_clips.tolist(), strict=True)
        if is_any
    }
    return MotionWeights(np.concatenate(keys), weights), visits


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
