"""A study whose variants, not its methods, are compared: all variants in one table and one chart.

Such a study has a few ways to act in each variant, e.g. one policy on every latent action model.
"""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from lafp.evaluate.results import DEMONSTRATOR
from lafp.evaluate.statistics import Interval
from lafp.evaluate.study import StudyResults, StudyRow
from lafp.report import charts
from lafp.report.blocks import NO_VALUE, Section, Table, chart
from lafp.report.sections.outcome import OUTCOMES
from lafp.report.sections.result import name_of

MAX_METHODS = 2
_PROBES = {
    "lam": "Probe R² of latent actions",
    "embedding": "of the observation's embedding",
    "random_lam": "of an untrained model",
}
_WIDTH_IN = 8.4


def section(results: StudyResults) -> Section | None:
    """Variants over each other; None where there is one, or many methods in each."""
    table = table_of(results)
    if table is None:
        return None
    figure = chart(
        charts.draw(_WIDTH_IN, _height_in(results), lambda axes: _paint(results, axes), 2),
        alt="Probe and outcome of every variant.",
        caption="Every variant of the study, with 95 % intervals; small ticks are single training "
        "seeds. Left: what a linear probe reads of the true action from latent actions.",
    )
    return Section(id="overview", short="Overview", title="All variants", blocks=[figure, table])


def png(results: StudyResults) -> bytes | None:
    """The chart, for documents."""
    if table_of(results) is None:
        return None
    return charts.draw_png(
        _WIDTH_IN + 2, _height_in(results), lambda axes: _paint(results, axes), 2
    )


def table_of(results: StudyResults) -> Table | None:
    """One row per variant: probe, controls, and the outcome of each method."""
    variants, labels = results.variants(), _labels(results)
    if len(variants) < 2 or not 1 <= len(labels) <= MAX_METHODS:
        return None
    probe, found = _by_key(results, "probe_r2"), _by_key(results, results.outcome)
    if not probe:
        return None
    outcome = OUTCOMES[results.outcome]
    names = [
        next(name_of(row.subject) for key, row in found.items() if key[1] == label)
        for label in labels
    ]
    rows = [
        [
            variant or "",
            *(_cell(probe.get((variant, label)), _r2) for label in _PROBES),
            *(_cell(found.get((variant, label)), outcome.written) for label in labels),
        ]
        for variant in variants
    ]
    return Table(
        head=[
            "Variant",
            *_PROBES.values(),
            *(f"{name}: {outcome.axis}" for name in names),
        ],
        rows=rows,
        caption="Means over training seeds with 95 % bootstrap intervals. The probe is measured "
        "on labeled episodes that no training saw, and counts only where it beats its controls.",
    )


def _labels(results: StudyResults) -> list[str]:
    rows = results.of_metric(results.outcome)
    found = dict.fromkeys(row.subject.label for row in rows)
    return [label for label in found if label != DEMONSTRATOR]


def _by_key(results: StudyResults, metric: str) -> dict[tuple[str | None, str], StudyRow]:
    return {row.key: row for row in results.of_metric(metric)}


def _paint(results: StudyResults, axes: Sequence[Axes]) -> None:
    charts.paint_dots(axes[0], _dots(results, "probe_r2", ["lam"]), "probe R² of latent actions")
    outcomes = _dots(results, results.outcome, _labels(results))
    outcome = OUTCOMES[results.outcome]
    charts.paint_dots(axes[1], outcomes, outcome.axis, xlim=outcome.xlim)
    axes[1].set_xlim(left=min(0.0, axes[1].get_xlim()[0]))


def _dots(results: StudyResults, metric: str, labels: Sequence[str]) -> list[charts.Dot]:
    found = _by_key(results, metric)
    dots = []
    for variant in results.variants():
        for label in labels:
            if row := found.get((variant, label)):
                name = f", {name_of(row.subject)}" if len(labels) > 1 else ""
                dots.append(
                    charts.Dot(
                        label=f"{variant}{name}",
                        value=row.interval.mean,
                        low=row.interval.low,
                        high=row.interval.high,
                        points=row.per_seed,
                    )
                )
    return dots


def _height_in(results: StudyResults) -> float:
    return 0.9 + 0.27 * len(results.variants()) * len(_labels(results))


def _cell(row: StudyRow | None, written: Callable[[Interval], str]) -> str:
    return NO_VALUE if row is None else written(row.interval)


def _r2(value: Interval) -> str:
    return value.written("{:z.2f}".format)
