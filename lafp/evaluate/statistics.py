"""Means with intervals. No result of this project is a single number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 5_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float
    num_values: int
    """Episodes (or other values) over all seeds."""
    num_seeds: int

    def __str__(self) -> str:
        return self.written("{:.3f}".format)

    def written(self, form: Callable[[float], str], unit: str = "") -> str:
        """``mean unit [low, high]``, each number as ``form`` writes it.

        A single value has no interval: it stands alone.
        """
        if self.num_values == 1:
            return f"{form(self.mean)}{unit}"
        mean, low, high = map(form, (self.mean, self.low, self.high))
        return f"{mean}{unit} [{low}, {high}]"

    def in_percent(self) -> str:
        """Writes a share: ``93 % [88, 97]``."""
        return self.written(lambda share: f"{100 * share:.0f}", " %")


def bootstrap_interval(
    values_per_seed: Sequence[np.ndarray | Sequence[float]],
    *,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean over training seeds and episodes, with a percentile bootstrap interval.

    Hierarchical (Davison & Hinkley, 1997, section 3.8): a resample draws seeds with replacement,
    then episodes with replacement within each drawn seed. So the interval covers both what another
    training run and what other episodes would give. With one seed only the episodes are
    resampled, and the interval says nothing about another training run. Few seeds give intervals
    that are too narrow, and values that are all equal give one of no width.

    Args:
        values_per_seed: One sequence of per-episode values per training seed. Each seed weighs the
            same, however many episodes it has.
        level: Coverage of the interval.
        num_resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: No seeds, a seed without values, or a value that is not finite.
    """
    groups = [np.asarray(values, np.float64).reshape(-1) for values in values_per_seed]
    if not groups or any(len(group) == 0 for group in groups):
        sizes = [len(group) for group in groups]
        raise ValueError(f"Every seed needs at least one value, got {sizes} values per seed.")
    if not all(np.isfinite(group).all() for group in groups):
        raise ValueError("A value is not finite: leave undefined episodes out first.")
    means = _resampled_means(groups, num_resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(
        mean=float(np.mean([group.mean() for group in groups])),
        low=float(low),
        high=float(high),
        num_values=sum(len(group) for group in groups),
        num_seeds=len(groups),
    )


def _resampled_means(
    groups: list[np.ndarray], num_resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Means of hierarchical resamples, float64 [num_resamples]."""
    chosen = rng.integers(len(groups), size=(num_resamples, len(groups)))
    means = np.zeros(num_resamples)
    for slot in range(len(groups)):
        for g, group in enumerate(groups):
            rows = np.nonzero(chosen[:, slot] == g)[0]
            picks = rng.integers(len(group), size=(len(rows), len(group)))
            means[rows] += group[picks].mean(axis=1)
    return means / len(groups)
