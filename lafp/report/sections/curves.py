"""Metrics over what runs or methods vary in numbers: labels, start of the solver, solver steps."""

import math
from collections.abc import Mapping, Sequence

from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import OUTCOMES as ANY_OUTCOME
from lafp.report import charts, drawings
from lafp.report.blocks import NO_VALUE, Section, Table, anchored, chart
from lafp.report.methods import actions_of, named, noise_of
from lafp.report.metrics import METRICS, OUTCOMES
from lafp.runs.wording import counted

_OF_LABELS = (*ANY_OUTCOME, "mode_coverage", "action_mse", "probe_r2")
_OF_METHODS = {
    "anchor_time": ("τₐ", "where the solver starts when the action decoder is trained (τₐ)"),
    "solver_steps": ("solver steps", "the number of solver steps"),
}


def over_labels(results: Results) -> list[Section]:
    """Makes a section per metric, with a curve per method; none if the labels do not vary."""
    if not results.label_fractions:
        return []
    metrics = [metric for metric in _OF_LABELS if results.curves(metric)]
    metrics = [m for m in metrics if m == results.outcome or m not in ANY_OUTCOME]
    if all(row.label_scope == "action_decoder" for row in results.rows):
        # The LAM behind all trials saw the same labels.
        metrics = [metric for metric in metrics if metric != "probe_r2"]
    return [_over_labels(results, metric) for metric in metrics]


def over_methods(results: Results) -> list[Section]:
    """Draws the outcome over each column in which at least three methods differ."""
    return [s for column in _OF_METHODS if (s := _over_methods(results, column))]


def _over_labels(results: Results, metric: str) -> Section:
    title = METRICS[metric].title.partition(",")[0]
    at = _positions(results.label_fractions)
    curves = results.curves(metric)
    lines = [
        _line(_curve_name(variant, groups), [at[f] for f in groups], list(groups.values()), index)
        for index, ((variant, _), groups) in enumerate(curves.items())
    ]
    figure = chart(
        charts.curves(
            {title: lines},
            xlabel="labeled transitions",
            xticks={at[f]: results.labels_in_words(f).partition(" labeled")[0] for f in at},
            ylim=OUTCOMES[metric].xlim if metric in OUTCOMES else None,
            height_in=3.2,
            panel_width_in=4.2,
        ),
        alt=f"{title} over the number of labels: one curve per method.",
        caption=f"{title} over the number of labels, with 95 % intervals; small ticks are single "
        "training seeds.",
    )
    return Section(
        id=metric,
        short=title,
        title=f"{title} over the number of labels",
        blocks=[figure, _table(results, metric, curves)],
    )


def _positions(fractions: Sequence[float]) -> dict[float, float]:
    """Places shares of labels, which rise by factors, on a logarithmic axis, and 0 at its left."""
    positive = [math.log10(fraction) for fraction in fractions if fraction > 0]
    zero = min(positive, default=0.0) - 0.6
    return {f: math.log10(f) if f > 0 else zero for f in fractions}


def _table(
    results: Results,
    metric: str,
    curves: Mapping[tuple[str | None, str], Mapping[float, Group]],
) -> Table:
    """Makes a table with a row per curve and a column per share of labels."""
    is_share = metric in OUTCOMES and OUTCOMES[metric].is_share
    number = (lambda share: f"{100 * share:.0f}") if is_share else _decimal
    title = METRICS[metric].title.partition(",")[0]
    rows = [
        [
            _curve_name(variant, groups),
            *(
                groups[f].interval.written(number) if f in groups else NO_VALUE
                for f in results.label_fractions
            ),
        ]
        for (variant, _), groups in curves.items()
    ]
    return Table(
        head=[
            f"{title}, %" if is_share else title,
            *(results.labels_in_words(f) for f in results.label_fractions),
        ],
        rows=rows,
        caption="Columns are numbers of labels that training saw. Means over training seeds "
        "with 95 % intervals, for success and return over seeds and episodes.",
    )


def _decimal(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def _curve_name(variant: str | None, groups: Mapping[float, Group]) -> str:
    """Names the variant of the runs, where there are several, and the method."""
    measured = named(next(iter(groups.values())).subject)
    return f"{variant}: {measured}" if variant else measured


def _over_methods(results: Results, column: str) -> Section | None:
    """Draws a panel per variant, with a line per method that has three values."""
    short, in_words = _OF_METHODS[column]
    outcome = OUTCOMES[results.outcome]
    panels = {}
    for variant in results.variants:
        series: dict[str, list[Group]] = {}
        for group in results.of_variant(variant, results.outcome).values():
            if getattr(group.subject, column) is not None:
                series.setdefault(_other_than(column, group), []).append(group)
        lines: list[charts.Line] = []
        for name, groups in series.items():
            ordered = sorted(groups, key=lambda group: getattr(group.subject, column))
            if len(groups) > 2:
                x = [getattr(group.subject, column) for group in ordered]
                lines.append(_line(name, x, ordered, len(lines)))
        if lines:
            panels[variant or outcome.title] = lines
    if not panels:
        return None
    title = f"{outcome.title} over {in_words}"
    figure = chart(
        charts.curves(panels, xlabel=short, height_in=2.6),
        alt=f"{title}.",
        caption=f"{title}, with 95 % intervals; small ticks are single training seeds.",
    )
    return Section(id=column, short=f"Over {short}", title=title, blocks=[figure])


def _other_than(column: str, group: Group) -> str:
    subject = group.subject
    is_sweep = column == "anchor_time" or subject.anchors is None
    anchor = "" if is_sweep or subject.anchors is None else f"{anchored(*subject.anchors)}, "
    num = 0 if column == "solver_steps" else subject.solver_steps
    steps = f", {counted(num, 'step')}" if num else ""
    sampled = f", {actions_of(subject)}" if subject.sample_actions else ""
    return f"{anchor}{noise_of(subject)} noise{steps}{sampled}"


def _line(name: str, x: Sequence[float], groups: Sequence[Group], index: int) -> charts.Line:
    return charts.Line(
        title=name,
        x=x,
        y=[group.value for group in groups],
        band=([g.interval.low for g in groups], [g.interval.high for g in groups]),
        points=[group.per_seed for group in groups],
        color=drawings.CYCLE[index % len(drawings.CYCLE)],
        is_dashed=index >= len(drawings.CYCLE),
    )
