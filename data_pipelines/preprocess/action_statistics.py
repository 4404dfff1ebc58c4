"""Computes a set's action statistics per dimension from the sums that each clip contributes."""

# Shape suffixes in this file: T rows, A action dimensions.

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines.preprocess.rows import LabelSums

QUANTILES = {"q01": 0.01, "q99": 0.99}
# DDSketch (Masson et al., VLDB 2019): buckets that grow by the factor 1 + 2e give quantiles within
# a share e of their value, here 0.1 %, in whatever order clips are added.
_GROWTH = 1.002
_TINY = 1e-9
"""Values with a smaller magnitude count as 0."""


def label_sums(
    action_TA: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> LabelSums:
    """Computes the sums that one clip contributes.

    Args:
        action_TA: float [T, A], or int [T] when discrete; one row per pair.
        low: [A]: lower bounds of the action space, where the labels give them.
        high: [A]: upper bounds, likewise.
    """
    if action_TA.ndim == 1:
        choices = int(action_TA.max(initial=-1)) + 1
        return LabelSums(num_rows=len(action_TA), num_choices=choices)
    # Sums of squares of many rows lose their last digits in float32.
    action_TA = action_TA.astype(np.float64)
    smallest, largest = action_TA.min(axis=0), action_TA.max(axis=0)
    return LabelSums(
        num_rows=len(action_TA),
        total=tuple(action_TA.sum(axis=0).tolist()),
        total_squares=tuple((action_TA**2).sum(axis=0).tolist()),
        smallest=tuple(smallest.tolist()),
        largest=tuple(largest.tolist()),
        buckets=tuple(
            tuple(zip(*(part.tolist() for part in found), strict=True))
            for found in (np.unique(column, return_counts=True) for column in _buckets(action_TA).T)
        ),
        low=tuple((smallest if low is None else low).tolist()),
        high=tuple((largest if high is None else high).tolist()),
        is_bounded=low is not None and high is not None,
    )


class ActionStatistics:
    """Adds up the sums of clips and computes statistics from them."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.num_choices = 0
        self.is_bounded = True
        self.low: Any = np.inf
        self.high: Any = -np.inf
        self._total: Any = 0.0
        self._total_squares: Any = 0.0
        self._smallest: Any = np.inf
        self._largest: Any = -np.inf
        self._buckets: list[Counter[int]] = []

    def add(self, sums: LabelSums) -> None:
        """Adds one clip, which must have the same kind of actions as the clips before it."""
        self.num_rows += sums.num_rows
        self.num_choices = max(self.num_choices, sums.num_choices)
        self.is_bounded &= sums.is_bounded
        self.low, self.high = np.minimum(self.low, sums.low), np.maximum(self.high, sums.high)
        self._total = self._total + np.array(sums.total)
        self._total_squares = self._total_squares + np.array(sums.total_squares)
        self._smallest = np.minimum(self._smallest, sums.smallest)
        self._largest = np.maximum(self._largest, sums.largest)
        self._buckets = self._buckets or [Counter() for _ in sums.buckets]
        for counter, pairs in zip(self._buckets, sums.buckets, strict=True):
            for bucket, count in pairs:
                counter[bucket] += count

    def sums(self) -> LabelSums:
        """Returns what was added as the sums of one clip, which can be stored and added again."""
        if not self._buckets:
            return LabelSums(num_rows=self.num_rows, num_choices=self.num_choices)
        return LabelSums(
            num_rows=self.num_rows,
            total=tuple(self._total.tolist()),
            total_squares=tuple(self._total_squares.tolist()),
            smallest=tuple(self._smallest.tolist()),
            largest=tuple(self._largest.tolist()),
            buckets=tuple(tuple(sorted(counter.items())) for counter in self._buckets),
            low=tuple(self.low.tolist()),
            high=tuple(self.high.tolist()),
            is_bounded=self.is_bounded,
        )

    def per_dimension(self, quantiles: Mapping[str, float] = QUANTILES) -> dict[str, list[float]]:
        """Returns ``mean``, ``std``, ``min``, ``max``, and quantiles to 0.1 % of their value.

        Args:
            quantiles: Name -> share of the rows.
        """
        mean = self._total / self.num_rows
        variance = self._total_squares / self.num_rows - mean**2
        found = {
            "mean": mean.tolist(),
            # Rounding can make the variance of a constant slightly negative.
            "std": np.sqrt(np.maximum(variance, 0)).tolist(),
            "min": self._smallest.tolist(),
            "max": self._largest.tolist(),
        }
        for name, share in quantiles.items():
            values = [self._quantile(counter, share) for counter in self._buckets]
            # The middle of a bucket may lie beyond the extremes, which are known exactly.
            found[name] = np.clip(values, self._smallest, self._largest).tolist()
        return found

    def _quantile(self, counter: Counter[int], share: float) -> float:
        """Returns the smallest value that at least this share of the rows does not exceed."""
        buckets = np.array(sorted(counter))
        counts = np.cumsum([counter[bucket] for bucket in buckets])
        found = int(buckets[np.searchsorted(counts, share * self.num_rows - 1e-9)])
        if not found:
            return 0.0
        # This value is off by the same share at both ends of the bucket.
        return float(np.sign(found) * _TINY * _GROWTH ** (abs(found) - 1) * 2 / (1 + _GROWTH))


def _buckets(action_TA: np.ndarray) -> np.ndarray:
    """Returns bucket numbers, int64 [T, A], which ascend with the values; bucket 0 holds 0."""
    size_TA = np.abs(action_TA)
    power_TA = np.ceil(np.log(np.maximum(size_TA, _TINY) / _TINY) / np.log(_GROWTH))
    return (np.sign(action_TA) * np.where(size_TA > _TINY, power_TA + 1, 0)).astype(np.int64)
