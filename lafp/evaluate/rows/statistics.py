"""Computes means and other statistics with their intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVELS = (0.025, 0.975)
"""Quantiles at the ends of every interval, which so covers 95 %."""
NUM_RESAMPLES = 5_000
NUM_RESAMPLES_OVER_TASKS = 1_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean, or another statistic of several runs, and its interval."""

    mean: float
    low: float
    high: float
    num_values: int
    """Episodes (or other values) over all seeds. Of 1 there is no interval."""
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


def interval_of_mean(
    values_per_seed: Sequence[np.ndarray | Sequence[float]],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Returns the mean over training seeds and episodes, with its interval.

    The bootstrap is hierarchical (Davison & Hinkley, 1997, section 3.8): a resample draws seeds
    with replacement, then episodes with replacement within each drawn seed. With few seeds its
    percentiles hardly leave the range of the seeds: with three they cover the truth in about 75 of
    100 studies. So with two seeds or more the interval also contains Student's t-interval over the
    seeds' means. With one seed only the episodes are resampled, and the interval says nothing about
    another training run. Values that are all equal give an interval of no width.

    Args:
        values_per_seed: One sequence of per-episode values per training seed. Each seed weighs the
            same, however many episodes it has.
        num_resamples: Bootstrap resamples.
        seed: Seed of the resampling.
        bounds: Smallest and largest possible mean, to which the interval is cut.

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
    low, high = np.quantile(means, LEVELS)
    of_seeds = np.array([group.mean() for group in groups])
    if len(groups) > 1:
        standard_error = of_seeds.std(ddof=1) / np.sqrt(len(groups))
        from scipy.special import stdtrit  # its import takes 0.3 s, which most commands can spare

        width = stdtrit(len(groups) - 1, LEVELS[1]) * standard_error
        low, high = min(low, of_seeds.mean() - width), max(high, of_seeds.mean() + width)
    if bounds is not None:
        low, high = np.clip([low, high], *bounds)
    return Interval(
        mean=float(of_seeds.mean()),
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


def interquartile_mean(scores_per_task: Sequence[Sequence[float]], *, seed: int = 0) -> Interval:
    """Returns the mean of the middle half of all runs of all tasks.

    It uses more runs than the median, and no single run or task decides it (Agarwal et al., 2021,
    arXiv:2108.13264). The interval is a percentile bootstrap that resamples the runs of each task.

    Args:
        scores_per_task: For each task, the normalized outcome of each training seed.
        seed: Of the resampling.
    """
    tasks = _checked(scores_per_task)

    def iqm(resampled: list[np.ndarray]) -> np.ndarray:
        scores = np.sort(np.concatenate(resampled, axis=-1), axis=-1)
        num_cut = scores.shape[-1] // 4
        return scores[..., num_cut : scores.shape[-1] - num_cut].mean(axis=-1)

    return _over_tasks(iqm, tasks, seed)


def probability_of_improvement(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    *,
    seed: int = 0,
) -> Interval:
    """Returns the probability that a run of ours beats one of theirs on a random task.

        P = mean over tasks of mean over pairs of runs (1[x > y] + 1[x = y] / 2)

    This is the Mann-Whitney U over the number of pairs (Agarwal et al., 2021). The interval
    resamples the runs of each task.

    Args:
        ours: For each task, the outcome of each training seed.
        theirs: For the same tasks in the same order, those of the other method.
        seed: Of the resampling.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"Expected the same tasks of both, got {len(ours)} and {len(theirs)}.")

    def wins(resampled: list[np.ndarray]) -> np.ndarray:
        pairs = zip(resampled[: len(ours)], resampled[len(ours) :], strict=True)
        signs = (np.sign(x[..., :, None] - y[..., None, :]).mean((-2, -1)) for x, y in pairs)
        return (np.mean(list(signs), axis=0) + 1) / 2

    return _over_tasks(wins, _checked([*ours, *theirs]), seed)


def _over_tasks(
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    tasks: list[np.ndarray],
    seed: int,
) -> Interval:
    """Resamples the runs of each task. ``statistic`` maps arrays [..., runs] to [...]."""
    rng = np.random.default_rng(seed)
    picks = [rng.integers(len(task), size=(NUM_RESAMPLES_OVER_TASKS, len(task))) for task in tasks]
    resampled = statistic([task[pick] for task, pick in zip(tasks, picks, strict=True)])
    low, high = np.quantile(resampled, LEVELS)
    num_seeds = max(map(len, tasks))
    return Interval(
        mean=float(statistic(tasks)),
        low=float(low),
        high=float(high),
        # One run per task leaves nothing to resample.
        num_values=sum(map(len, tasks)) if num_seeds > 1 else 1,
        num_seeds=num_seeds,
    )


def _checked(scores_per_task: Sequence[Sequence[float]]) -> list[np.ndarray]:
    tasks = [np.asarray(scores, np.float64).reshape(-1) for scores in scores_per_task]
    if not tasks or any(len(task) == 0 for task in tasks):
        raise ValueError(f"Every task needs at least one run, got {[len(t) for t in tasks]}.")
    return tasks
