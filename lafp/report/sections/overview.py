"""Compares the variants of a study that have one or two methods each, in one chart and table."""

from lafp.evaluate.rows.grouped import Results
from lafp.evaluate.rows.results import DEMONSTRATOR
from lafp.report import charts
from lafp.report.blocks import NO_VALUE, Section, Table, chart
from lafp.report.methods import name_of
from lafp.report.metrics import METRICS, OUTCOMES

MAX_METHODS = 2
_PROBES = {
    "lam": "Probe R² of latent actions",
    "embedding": "of the observation's embedding",
    "random_lam": "of an untrained model",
}


def section(results: Results) -> Section | None:
    """Compares variants; None if there is only one, or if each has many methods."""
    labels = _labels(results)
    has_probe = any(g.subject.method == "lam" for g in results.of_metric("probe_r2"))
    if len(results.variants) < 2 or not 1 <= len(labels) <= MAX_METHODS or not has_probe:
        return None
    outcome = OUTCOMES[results.outcome]
    drawing = charts.dots(
        [
            charts.DotPanel(
                rows=_dots(results, "probe_r2", {"lam": ""}), xlabel="probe R² of latent actions"
            ),
            charts.DotPanel(
                rows=_dots(results, results.outcome, labels),
                xlabel=outcome.axis,
                xlim=outcome.xlim,
                form=outcome.number,
            ),
        ]
    )
    figure = chart(
        drawing,
        alt="Probe and outcome of every variant.",
        caption="Every variant of the study, with 95 % intervals; small ticks are single training "
        "seeds. Left: what a linear probe reads of the true action from latent actions.",
    )
    return Section(
        id="overview",
        short="Overview",
        title="All variants",
        blocks=[figure, _table(results, labels)],
    )


def _labels(results: Results) -> dict[str, str]:
    """Maps the label of each method to its name."""
    subjects = [group.subject for group in results.of_metric(results.outcome)]
    return {s.label: name_of(s) for s in subjects if s.method != DEMONSTRATOR}


def _table(results: Results, labels: dict[str, str]) -> Table:
    """Makes a table with one row per variant: probe, controls, and the outcome of each method."""
    outcome, number = OUTCOMES[results.outcome], METRICS["probe_r2"].number
    rows = []
    for variant in results.variants:
        probe = results.of_variant(variant, "probe_r2")
        acting = results.of_variant(variant, results.outcome)
        of_probe = [probe[n].interval.written(number) if n in probe else NO_VALUE for n in _PROBES]
        reached = [
            outcome.written(acting[label].interval) if label in acting else NO_VALUE
            for label in labels
        ]
        rows.append([variant or "", *of_probe, *reached])
    return Table(
        head=[
            "Variant",
            *_PROBES.values(),
            *(f"{name}: {outcome.axis}" for name in labels.values()),
        ],
        rows=rows,
        caption="Means over training seeds with 95 % intervals. The probe is measured "
        "on labeled episodes that no training saw, and counts only where it beats its controls.",
    )


def _dots(results: Results, metric: str, labels: dict[str, str]) -> list[charts.Dot]:
    """Draws a dot for every variant and method."""
    dots = []
    for variant in results.variants:
        found = results.of_variant(variant, metric)
        for label, name in labels.items():
            if label in found:
                method = f", {name}" if len(labels) > 1 else ""
                dots.append(charts.Dot.of(found[label], title=f"{variant}{method}"))
    return dots
