"""What the runs of a study found together: their long tables, and means over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lafp import storage
from lafp.evaluate.outcomes import read_episode_outcomes
from lafp.evaluate.results import Result, outcome_metric, read_results
from lafp.evaluate.statistics import Interval, bootstrap_interval
from lafp.runs.run_dir import RunDir


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One method in one variant, over all seeds."""

    subject: Result
    """Its row of the first seed: what it is."""
    interval: Interval
    per_seed: tuple[float, ...]

    @property
    def key(self) -> tuple[str | None, str]:
        """Variant and label."""
        return self.subject.variant, self.subject.label


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The runs' results."""

    rows: tuple[Result, ...]
    """Of every run, in the form of every run."""
    outcomes: dict[tuple[str | None, str], dict[int, np.ndarray]]
    """(variant, label) -> seed -> ``outcome`` of every episode, float [N]: the same episodes for
    all labels of a seed."""
    runs: tuple[str, ...]
    """URIs."""

    @property
    def outcome(self) -> str:
        """The metric that says how well a policy does."""
        return outcome_metric(self.rows)

    def variants(self) -> list[str | None]:
        """In the order of the runs."""
        return list(dict.fromkeys(row.variant for row in self.rows))

    def of_variant(self, variant: str | None, metric: str) -> dict[str, StudyRow]:
        """``of_metric`` for one variant, by label."""
        rows = self.of_metric(metric)
        return {row.subject.label: row for row in rows if row.subject.variant == variant}

    def of_metric(self, metric: str) -> list[StudyRow]:
        """Means over seeds of one metric, in the order in which the runs list them.

        ``outcome`` is resampled over seeds and episodes, other metrics over seeds; of one seed
        their interval is its row's own, over episodes, where it has one. Seeds without a value (the
        coverage of a policy that passes no fork) are left out.
        """
        if metric not in self._means:
            self._means[metric] = self._means_of(metric)
        return self._means[metric]

    @cached_property
    def _means(self) -> dict[str, list[StudyRow]]:
        """Every table and chart asks again, and resampling takes its time."""
        return {}

    def _means_of(self, metric: str) -> list[StudyRow]:
        by_key: defaultdict[tuple[str | None, str], list[Result]] = defaultdict(list)
        for row in self.rows:
            if row.metric == metric and np.isfinite(row.value):
                by_key[row.variant, row.label].append(row)
        found = []
        for key, rows in by_key.items():
            each = tuple(row.value for row in rows)
            interval = self._interval(metric, key, rows)
            found.append(StudyRow(subject=rows[0], interval=interval, per_seed=each))
        return found

    def _interval(
        self, metric: str, key: tuple[str | None, str], rows: Sequence[Result]
    ) -> Interval:
        if metric == self.outcome and key in self.outcomes:
            return bootstrap_interval(list(self.outcomes[key].values()))
        if len(rows) == 1:
            return rows[0].interval
        return bootstrap_interval([[row.value] for row in rows])

    def gain(self, variant: str | None, label: str, over: str) -> Interval:
        """Difference in the outcome between two methods, episode by episode."""
        ours, theirs = self.outcomes[variant, label], self.outcomes[variant, over]
        return bootstrap_interval([ours[seed] - theirs[seed] for seed in ours if seed in theirs])


def read_runs(runs: Sequence[RunDir]) -> StudyResults:
    """Reads the complete evaluations of a study's runs."""
    return merged([_read(run) for run in runs])


def merged(parts: Sequence[StudyResults]) -> StudyResults:
    """One out of several.

    Runs without the outcome of the whole (demonstrators whose return is not positive are no measure
    for others) count with their other metrics alone.
    """
    rows = tuple(row for part in parts for row in part.rows)
    metric = outcome_metric(rows)
    outcomes: defaultdict[tuple[str | None, str], dict[int, np.ndarray]] = defaultdict(dict)
    for part in parts:
        for key, of_seeds in part.outcomes.items() if part.outcome == metric else ():
            outcomes[key] |= of_seeds
    runs = tuple(uri for part in parts for uri in part.runs)
    return StudyResults(rows=rows, outcomes=dict(outcomes), runs=runs)


def _read(run: RunDir) -> StudyResults:
    stage = run.stage("evaluation")
    rows = read_results(stage.path("results.parquet"))
    seed = next((row.seed for row in rows if row.seed is not None), 0)
    outcomes: dict[tuple[str | None, str], dict[int, np.ndarray]] = {}
    if storage.is_file(stage.path("episodes.parquet")):
        of_episodes = read_episode_outcomes(stage.path("episodes.parquet"))
        outcomes = {(rows[0].variant, label): {seed: of} for label, of in of_episodes.items()}
    return StudyResults(
        rows=tuple(replace(row, seed=seed) for row in rows), outcomes=outcomes, runs=(run.uri,)
    )
