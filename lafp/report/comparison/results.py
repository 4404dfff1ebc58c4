"""Compares evaluations: outcomes and probes with intervals, and differences on equal episodes."""

from collections.abc import Callable, Sequence

from lafp.evaluate.rows.grouped import Group, Results, merged, read_run
from lafp.report import charts, drawings
from lafp.report.blocks import NO_VALUE, Block, Section, Table, chart
from lafp.report.comparison.compared import Part, Runs
from lafp.report.methods import named, policies
from lafp.report.metrics import METRICS, OUTCOMES
from lafp.report.sections import outcome, probe
from lafp.runs.wording import number

MAX_ROWS, MAX_ROWS_IN_TERMINAL = 300, 8
_TITLES = {
    "evaluation": "How well do the policies act?",
    "lam_evaluation": "What do the latent actions hold?",
}
STAGES = tuple(_TITLES)
_PANELS_PER_ROW = 3


def part(runs: Runs, name: str) -> Part | None:
    """Compares the rows of an evaluation; None unless at least two runs have rows."""
    # Every run counts as the same seed, so that episodes pair across runs.
    parts = [read_run(each.run, name, variant=each.label, seed=0) for each in runs]
    results = merged([each for each in parts if each.rows])
    if len(results.variants) < 2:
        return None
    labels = [each.label for each in runs if each.label in results.variants]
    shown = [each for each in runs if each.label in labels]
    are_paired = len(shown) == 2 and _same_episodes(shown, results, name)
    blocks: list[Block] = [*_outcomes(results, labels), *_probes(results, labels)]
    rows = _rows(results, labels, are_paired)
    blocks.append(_table(rows, labels))
    section = Section(
        id=name.replace("_", "-"), short=name.replace("_", " ").capitalize(),
        title=_TITLES[name], blocks=blocks,
    )  # fmt: skip
    return Part(section, _lines(name, rows, results.outcome))


def _same_episodes(runs: Runs, results: Results, name: str) -> bool:
    """Tells whether both runs acted in the same episodes of the same environment."""
    configs = [each.stages[name].config() for each in runs]
    sizes = {len(values) for of in results.outcomes.values() for values in of.values()}
    keys = ("env", "num_episodes", "seed")
    return len(sizes) == 1 and all(configs[0].get(key) == configs[1].get(key) for key in keys)


def _outcomes(results: Results, labels: Sequence[str]) -> list[Block]:
    shown = [label for label in labels if policies(results, label, results.outcome)]
    if not shown:
        return []
    panels = [outcome.panel(results, label, label) for label in shown]
    axis = OUTCOMES[results.outcome].axis
    return [_dots(panels, f"{axis.capitalize()} of each method, one panel per run")]


def _probes(results: Results, labels: Sequence[str]) -> list[Block]:
    panels = []
    for label in labels:
        found = results.of_variant(label, "probe_r2")
        rows = [probe.dot(method, found[method]) for method in probe.PROBED if method in found]
        if rows:
            axis = "R² on held-out episodes"
            panels.append(charts.DotPanel(rows=rows, xlabel=axis, title=label))
    return [_dots(panels, "Linear probe of the true action, one panel per run")] if panels else []


def _dots(panels: Sequence[charts.DotPanel], what: str) -> Block:
    width_in = min(drawings.PAGE_WIDTH_IN, 3.4 + 2.9 * len(panels))
    drawing = charts.dots(panels, width_in=width_in, num_columns=_PANELS_PER_ROW)
    return chart(drawing, alt=f"{what}.", caption=f"{what}, with 95 % intervals.")


Row = tuple[str, str, list[str], str]
"""Metric, method, the value in each run, the difference."""


def _rows(results: Results, labels: Sequence[str], are_paired: bool) -> list[Row]:
    measured = dict.fromkeys(row.metric for row in results.rows)
    ordered = [m for m in METRICS if m in measured] + [m for m in measured if m not in METRICS]
    rows = []
    for metric in ordered:
        if metric.endswith("_disturbance"):
            continue
        write = _writer(results, metric)
        found = [results.of_variant(label, metric) for label in labels]
        for method in dict.fromkeys(method for of_run in found for method in of_run):
            groups = [of_run.get(method) for of_run in found]
            cells = [write(group) if group else NO_VALUE for group in groups]
            gain = _gain(results, metric, groups) if are_paired else ""
            rows.append((_title(metric), _method(groups), cells, gain))
    return rows


def _title(metric: str) -> str:
    known = METRICS.get(metric)
    return known.title if known else metric.replace("_", " ")


def _writer(results: Results, metric: str) -> Callable[[Group], str]:
    if metric in OUTCOMES:
        return lambda group: OUTCOMES[metric].written(group.interval)
    form = METRICS[metric].number if metric in METRICS else number
    return lambda group: group.interval.written(form)


def _method(groups: Sequence[Group | None]) -> str:
    subject = next(group.subject for group in groups if group)
    return probe.PROBED.get(subject.method) or named(subject)


def _gain(results: Results, metric: str, groups: Sequence[Group | None]) -> str:
    """Writes the second run minus the first, episode by episode."""
    first, second = groups
    if metric != results.outcome or first is None or second is None:
        return ""
    gain = results.gain(second, first)
    return OUTCOMES[metric].difference(gain) if gain else ""


def _table(rows: Sequence[Row], labels: Sequence[str]) -> Table:
    has_gain = any(gain for *_, gain in rows)
    caption = "Means with 95 % intervals over episodes, where there are any. Two training runs "
    caption += "differ by more than that: other seeds of each would lie around these values."
    if has_gain:
        caption += " Difference: the second run minus the first, on the same episodes."
    if len(rows) > MAX_ROWS:
        caption += f" The first {MAX_ROWS} of {len(rows):,} rows."
    return Table(
        head=["Metric", "Method", *labels, *(["Difference"] if has_gain else [])],
        rows=[
            [t, m, *cells, *([gain] if has_gain else [])] for t, m, cells, gain in rows[:MAX_ROWS]
        ],
        num_text_columns=2,
        caption=caption,
    )


def _lines(name: str, rows: Sequence[Row], main: str) -> list[str]:
    """Writes the rows of the main outcome and of the probe."""
    wanted = [row for row in rows if row[0] in (_title(main), _title("probe_r2"))]
    lines = [f"{name}:"]
    for title, method, cells, gain in wanted[:MAX_ROWS_IN_TERMINAL]:
        change = f", difference {gain}" if gain else ""
        lines.append(f"  {title}, {method}: {' | '.join(cells)}{change}")
    if len(wanted) > MAX_ROWS_IN_TERMINAL:
        lines.append(f"  and {len(wanted) - MAX_ROWS_IN_TERMINAL} more, on the page")
    return lines if len(lines) > 1 else []
