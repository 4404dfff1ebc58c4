"""Groups the results of one or several runs: means over seeds, intervals, differences.

A run is a study of one run. So all pages and tables read their numbers here, and each number is
computed once.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lafp import storage
from lafp.evaluate.rows.outcomes import read_episode_outcomes
from lafp.evaluate.rows.results import (
    DEMONSTRATOR,
    RANDOM,
    Key,
    Result,
    outcome_metric,
    read_results,
)
from lafp.evaluate.rows.statistics import Interval, interval_of_mean
from lafp.runs.run_dir import RunDir
from lafp.runs.wording import label_words

MAX_DISTURBANCE = 0.1
"""Timings that other work on the machine disturbed more than this are in no mean."""
_WITHOUT_LABELS = (DEMONSTRATOR, "nothing", "embedding", "random_lam")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One metric of one method in one setting, over all seeds."""

    rows: tuple[Result, ...]
    """The row of each seed."""
    interval: Interval

    @property
    def subject(self) -> Result:
        """The row of the first seed. It says what was measured."""
        return self.rows[0]

    @property
    def per_seed(self) -> tuple[float, ...]:
        """The value of each seed."""
        return tuple(row.value for row in self.rows)

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return self.interval.mean

    @property
    def labeled_transitions(self) -> int | None:
        """Labels that training saw: the median over seeds, whose episodes may differ in length."""
        found = [r.labeled_transitions for r in self.rows if r.labeled_transitions is not None]
        return round(np.median(found)) if found else None

    def difference(self, other: "Group") -> Interval | None:
        """Returns the mean difference to another group, seed by seed.

        Runs of one seed share demonstrations and held-out episodes, whose luck so cancels out.

        Returns:
            The difference with its interval over seeds; None with fewer than two seeds in both.
        """
        theirs = {row.seed: row.value for row in other.rows}
        found = [[row.value - theirs[row.seed]] for row in self.rows if row.seed in theirs]
        return interval_of_mean(found) if len(found) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Results:
    """The rows and episodes of one or several runs."""

    by_run: Mapping[str, tuple[Result, ...]]
    """URI of a run -> its rows."""
    outcomes: Mapping[Key, Mapping[int, np.ndarray]]
    """Key of a method -> seed -> the outcome of every episode, float [N]. The episodes of a seed
    are the same for all methods."""
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Variant -> its value on each axis of the study. A variant that is missing has one axis."""

    @cached_property
    def rows(self) -> tuple[Result, ...]:
        """The rows of all runs as one long table."""
        return tuple(row for rows in self.by_run.values() for row in rows)

    @cached_property
    def outcome(self) -> str:
        """The metric that says how well a policy does."""
        return outcome_metric(self.rows)

    @cached_property
    def seeds(self) -> list[int]:
        """Training seeds, in rising order."""
        return sorted({row.seed for row in self.rows if row.seed is not None})

    @cached_property
    def variants(self) -> list[str | None]:
        """Variants in the order of the runs; ``[None]`` if the runs vary nothing."""
        return list(dict.fromkeys(row.variant for row in self.rows)) or [None]

    def values_of(self, variant: str | None) -> tuple[str, ...]:
        """Returns the variant's value on each axis of the study."""
        return self.axes.get(variant or "", (variant or "",))

    @cached_property
    def settings(self) -> dict[str, dict[str, str | None]]:
        """Maps the values on all axes but the first to: value on the first axis -> variant.

        Variants of one setting are compared with each other.
        """
        found: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        for variant in self.variants:
            first, *others = self.values_of(variant)
            found["-".join(others)][first] = variant
        return dict(found)

    @cached_property
    def label_fractions(self) -> list[float]:
        """Shares of the labels that a study varies, in rising order; empty if it varies none.

        In such a study every row has a share. In others, rows of demonstrators and LAMs have none.
        """
        found = {row.label_fraction for row in self.rows}
        return [] if None in found else sorted(f for f in found if f is not None)

    def labels_in_words(self, fraction: float) -> str:
        """Writes how many labeled transitions and episodes a share has, or the share if unknown.

        Rows of methods count the labels of their action decoder, rows of probes those of the LAM.
        Only those count that the study varies (``label_scope``).

        Seeds may draw episodes of different lengths: the median is written.
        """
        found = [
            (row.labeled_transitions, row.labeled_episodes)
            for row in self.rows
            if row.label_fraction == fraction
            and _counts_varied_labels(row)
            and row.labeled_transitions is not None
            and row.labeled_episodes is not None
        ]
        if not found:
            return f"{100 * fraction:g} % of the labels"
        return label_words(*(round(np.median(numbers)) for numbers in zip(*found, strict=True)))

    def of_metric(self, metric: str) -> list[Group]:
        """Groups of one metric, in the order in which the runs list them, without random actions.

        The interval of the outcome is over seeds and episodes, that of other metrics over seeds; of
        a single seed, it is the one in its row. Seeds without a value (the mode coverage of a
        policy that passes no fork) and disturbed timings are left out.
        """
        return [g for g in self._of_metric(metric) if g.subject.method != RANDOM]

    def of_variant(self, variant: str | None, metric: str) -> dict[str, Group]:
        """Returns the groups of one metric in one variant, by label, with random actions."""
        groups = self._of_metric(metric)
        return {g.subject.label: g for g in groups if g.subject.variant == variant}

    def _of_metric(self, metric: str) -> list[Group]:
        if metric not in self._groups:
            by_key: defaultdict[Key, list[Result]] = defaultdict(list)
            for row in self._undisturbed:
                if row.metric == metric and np.isfinite(row.value):
                    by_key[row.key].append(row)
            self._groups[metric] = [self._group(metric, rows) for rows in by_key.values()]
        return self._groups[metric]

    def curves(self, metric: str) -> dict[tuple[str | None, str], dict[float, Group]]:
        """Maps variant and label to share of the labels to group.

        Demonstrators and the controls of the probe are left out: labels change neither.
        """
        found: defaultdict[tuple[str | None, str], dict[float, Group]] = defaultdict(dict)
        for group in self.of_metric(metric):
            subject = group.subject
            if subject.method not in _WITHOUT_LABELS and subject.label_fraction is not None:
                found[subject.variant, subject.label][subject.label_fraction] = group
        return {key: dict(sorted(groups.items())) for key, groups in found.items()}

    def gain(self, ours: Group, theirs: Group) -> Interval | None:
        """Returns the mean difference of the outcome, episode by episode; None without episodes."""
        a, b = (self.outcomes.get(group.subject.key, {}) for group in (ours, theirs))
        # Differences on the same episodes: most of the luck of an episode is the same for both
        # methods.
        with np.errstate(invalid="ignore"):  # infinite returns differ by no number
            pairs = _finite(a[seed] - b[seed] for seed in a if seed in b)
        if not pairs:
            return None
        return interval_of_mean(pairs, bounds=(-1.0, 1.0) if self.outcome == "success" else None)

    def best(self, metric: str) -> tuple[str, Result] | None:
        """Returns the run with the highest value (``..._mse``: the lowest), and its row."""
        sign = -1 if "_mse" in metric else 1
        candidates = (
            (uri, row)
            for uri, rows in self.by_run.items()
            for row in rows
            if row.metric == metric
            and row.method not in (DEMONSTRATOR, RANDOM)
            and np.isfinite(row.value)
        )
        return max(candidates, key=lambda item: sign * item[1].value, default=None)

    def disturbance(self, variant: str | None) -> list[float]:
        """Returns the disturbance of each timing of a variant, NaN if it was not measured."""
        rows = [row for row in self.rows if row.variant == variant]
        timed = {(row.seed, row.metric.removesuffix("_ms")) for row in rows if _is_timing(row)}
        found = {(row.seed, row.metric): row.value for row in rows}
        return [found.get((seed, f"{name}_disturbance"), np.nan) for seed, name in timed]

    @cached_property
    def _groups(self) -> dict[str, list[Group]]:
        """Groups by metric, kept because tables and charts ask again and resampling is slow."""
        return {}

    @cached_property
    def _undisturbed(self) -> list[Result]:
        return [row for rows in self.by_run.values() for row in _without_disturbed(rows)]

    def _group(self, metric: str, rows: Sequence[Result]) -> Group:
        return Group(rows=tuple(rows), interval=self._interval(metric, rows))

    def _interval(self, metric: str, rows: Sequence[Result]) -> Interval:
        if len(rows) == 1 and rows[0].low is not None:
            return rows[0].interval
        episodes = self.outcomes.get(rows[0].key, {}) if metric == self.outcome else {}
        if values := _finite(episodes.values()):
            bounds = (0.0, 1.0) if metric == "success" else None
            return interval_of_mean(values, bounds=bounds)
        return interval_of_mean([[row.value] for row in rows]) if rows[1:] else rows[0].interval


def _finite(values_per_seed: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Leaves out episodes without a finite outcome, and seeds without any other episode."""
    kept = (values[np.isfinite(values)] for values in values_per_seed)
    return [values for values in kept if len(values)]


def _counts_varied_labels(row: Result) -> bool:
    """Tells whether a row of a study over shares of the labels counts the labels that vary."""
    if row.method != "lam":
        return row.label_scope != "lam" and row.method not in _WITHOUT_LABELS
    # A LAM that no label supervised is the same for all shares.
    is_varied = bool(row.supervision_weight) or row.label_fraction == 0
    return row.label_scope in ("lam", "both") and is_varied


def _is_timing(row: Result) -> bool:
    return row.metric.startswith("latency_") and row.metric.endswith("_ms")


def _without_disturbed(rows: Iterable[Result]) -> list[Result]:
    """Leaves out a run's timings that were taken on a busy machine."""
    found = list(rows)
    kept = tuple(
        row.metric.removesuffix("disturbance")
        for row in found
        if row.metric.endswith("_disturbance") and row.value <= MAX_DISTURBANCE
    )
    return [r for r in found if not r.metric.startswith("latency_") or r.metric.startswith(kept)]


def one_run(
    uri: str, rows: Sequence[Result], outcomes: Mapping[str, np.ndarray], **about: Any
) -> Results:
    """Joins the rows and episodes of one run.

    Args:
        uri: The run's folder.
        rows: The rows of its result table.
        outcomes: Label -> the outcome of every episode.
        **about: Columns to set in all rows, e.g. ``label_fraction`` of a study's run.
    """
    columns = {"seed": next((row.seed for row in rows if row.seed is not None), 0)} | about
    rows = tuple(replace(row, **columns) for row in rows)
    key_of = {row.label: row.key for row in rows}
    by_key = {
        key_of[label]: {columns["seed"]: of} for label, of in outcomes.items() if label in key_of
    }
    return Results(by_run={uri: rows}, outcomes=by_key)


def read_run(run: RunDir, stage: str = "evaluation", **about: Any) -> Results:
    """Reads a run's evaluation; no rows if it has none. ``about`` is as in ``one_run``."""
    table, episodes = (run.stage(stage).path(f"{name}.parquet") for name in ("results", "episodes"))
    rows = read_results(table) if storage.is_file(table) else []
    outcomes = read_episode_outcomes(episodes) if storage.is_file(episodes) else {}
    return one_run(run.uri, rows, outcomes, **about)


def merged(parts: Sequence[Results]) -> Results:
    """Joins the results of several runs.

    A part with another outcome metric than the whole (returns are not divided by those of
    demonstrators who got nothing) gives its other metrics only.
    """
    by_run = {uri: rows for part in parts for uri, rows in part.by_run.items()}
    metric = outcome_metric(row for rows in by_run.values() for row in rows)
    outcomes: defaultdict[Key, dict[int, np.ndarray]] = defaultdict(dict)
    for part in parts:
        for key, of_seeds in part.outcomes.items() if part.outcome == metric else ():
            outcomes[key] |= of_seeds
    return Results(by_run=by_run, outcomes=dict(outcomes))
