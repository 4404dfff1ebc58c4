"""Mixes the clip orders of several shard sets by weight."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lafp.data.order.clips import ClipOrder, ClipRef
from lafp.data.randomness import derive_seed, keyed_permutation

MIX_PERIOD = 1024
"""Number of positions within which every shard set of a mixture has its exact share."""
_MIX = derive_seed("mix")


@dataclass(frozen=True, kw_only=True)
class MixedOrder:
    """Merges several clip orders into one endless sequence, each with its share of the positions.

    Every ``MIX_PERIOD`` positions hold exactly each part's share, in an order of their own. So the
    cursor stays one number, and each part keeps its own epochs: a part's epoch visits every clip
    exactly once, however often the other parts have been through theirs.
    """

    parts: tuple[ClipOrder, ...]
    weights: tuple[float, ...]
    """Positive weights, which need not sum to 1."""
    seed: int
    _quotas: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shares = np.array(self.weights) / sum(self.weights) * MIX_PERIOD
        # A set with a tiny weight still gets one position, or it would never be seen.
        quotas = np.maximum(1, np.floor(shares)).astype(np.int64)
        for i in np.argsort(np.floor(shares) - shares, kind="stable"):  # largest remainders first
            quotas[i] += quotas.sum() < MIX_PERIOD
        # The largest set pays for the positions that tiny weights got beyond their share.
        quotas[np.argmax(quotas)] += MIX_PERIOD - quotas.sum()
        object.__setattr__(self, "_quotas", quotas)

    @property
    def shard_sets(self) -> tuple[str, ...]:
        """Returns the URIs of all parts."""
        return tuple(part.shard_set for part in self.parts)

    @property
    def num_clips(self) -> int:
        """Returns the number of visits in one epoch of every part."""
        return sum(part.num_clips for part in self.parts)

    def visits(self, start: int = 0) -> Iterator[ClipRef]:
        """Yields endless visits from position ``start`` of the sequence."""
        period, offset = divmod(start, MIX_PERIOD)
        done = np.bincount(self._pattern(period)[:offset], minlength=len(self.parts))
        sources = [
            # The start of each part follows from the position alone, so the cursor stays one
            # number.
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
