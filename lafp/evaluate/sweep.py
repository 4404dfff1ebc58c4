"""What a sweep found: every method's metrics over the share of labels."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lafp.evaluate.results import DEMONSTRATOR, Result
from lafp.evaluate.study import StudyResults, StudyRow, merged, read_runs
from lafp.runs.run_dir import RunDir

_WITHOUT_LABELS = (DEMONSTRATOR, "nothing", "embedding", "random_lam")


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """A finished trial."""

    run: RunDir
    method: str | None
    """What the sweep changed in its pipeline besides labels."""
    label_fraction: float


@dataclass(frozen=True, kw_only=True)
class CurveKey:
    """One line of a plot."""

    method: str | None
    label: str
    """Of what the trial's evaluation measured."""


@dataclass(frozen=True, kw_only=True)
class SweepResults:
    """The trials' results."""

    by_fraction: dict[float, StudyResults]
    """Share of labels, in rising order -> all trials with it; a row's ``variant`` is its trial's
    method."""
    by_run: dict[str, tuple[Result, ...]]
    """URI of a trial -> its rows."""

    @property
    def rows(self) -> list[Result]:
        """In long form."""
        return [row for rows in self.by_run.values() for row in rows]

    def curves(self, metric: str) -> dict[CurveKey, dict[float, StudyRow]]:
        """Means over seeds: curve -> share of labels -> row.

        Without the demonstrators, and without the controls of the probe: labels change neither.
        """
        found: defaultdict[CurveKey, dict[float, StudyRow]] = defaultdict(dict)
        for fraction, results in self.by_fraction.items():
            for row in results.of_metric(metric):
                if row.subject.method not in _WITHOUT_LABELS:
                    key = CurveKey(method=row.subject.variant, label=row.subject.label)
                    found[key][fraction] = row
        return dict(found)

    def best(self, metric: str) -> tuple[str, Result] | None:
        """The trial with the highest value of a metric (``..._mse``: the lowest), and its row."""
        sign = -1 if "_mse" in metric else 1
        candidates = (
            (uri, row)
            for uri, rows in self.by_run.items()
            for row in rows
            if row.metric == metric and row.method != DEMONSTRATOR and np.isfinite(row.value)
        )
        return max(candidates, key=lambda item: sign * item[1].value, default=None)


def read_sweep(runs: Sequence[SweepRun], label_scope: str) -> SweepResults:
    """Reads the evaluations of finished trials.

    Args:
        runs: At least one.
        label_scope: Whose labels were varied; with the share, it goes into every row.
    """
    read = {run: _read(run, label_scope) for run in runs}
    by_fraction = {
        fraction: merged([read[run] for run in runs if run.label_fraction == fraction])
        for fraction in sorted({run.label_fraction for run in runs})
    }
    return SweepResults(
        by_fraction=by_fraction, by_run={run.run.uri: read[run].rows for run in runs}
    )


def _read(run: SweepRun, label_scope: str) -> StudyResults:
    results = read_runs([run.run])
    return replace(
        results,
        rows=tuple(_annotated(row, run, label_scope) for row in results.rows),
        outcomes={(run.method, label): values for (_, label), values in results.outcomes.items()},
    )


def _annotated(row: Result, run: SweepRun, label_scope: str) -> Result:
    return replace(
        row, variant=run.method, label_fraction=run.label_fraction, label_scope=label_scope
    )
