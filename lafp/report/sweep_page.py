"""A sweep, written down: ``results.parquet``, ``table.md``, ``table.tex``, ``plot.png``, a page."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from lafp import storage
from lafp.evaluate.results import outcome_metric, write_results
from lafp.evaluate.study import StudyRow
from lafp.evaluate.sweep import CurveKey, SweepResults
from lafp.report import charts
from lafp.report.blocks import (
    NO_VALUE,
    Block,
    Note,
    Section,
    Table,
    Text,
    chart,
)
from lafp.report.sections.outcome import OUTCOMES
from lafp.report.sections.result import SLALOM_NOTE
from lafp.report.study_page import page_of_runs
from lafp.report.study_tables import markdown_table, named

METRICS = {
    "success": "Success",
    "return_normalized": "Normalized return",
    "return": "Return",
    "mode_coverage": "Mode coverage",
    "action_mse": "Action MSE",
    "probe_r2": "Probe R²",
}
"""What has a curve and a table, where it was measured. The first one picks the best run."""
_WIDTH_IN, _HEIGHT_IN = 8.4, 3.2


def write_sweep(
    uri: str,
    name: str,
    results: SweepResults,
    missing: Mapping[str, str],
    sharing: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """Writes the sweep's files into its folder.

    Args:
        uri: Folder of the sweep.
        name: Title.
        results: The finished trials'.
        missing: Trial or stage -> why it is not among them.
        sharing: Job -> how often it was done, and how often it would be if trials shared nothing.

    Returns:
        A summary: the best run, and where the page is.
    """
    metrics = _metrics(results)
    write_results(storage.join(uri, "results.parquet"), results.rows)
    tables = {metric: table_of(results, metric) for metric in metrics}
    markdown = "\n\n".join(markdown_table(table) for table in tables.values()) + "\n"
    storage.write_text(storage.join(uri, "table.md"), markdown)
    storage.write_text(storage.join(uri, "table.tex"), _latex(tables))
    if metrics:
        png = charts.draw_png(_WIDTH_IN, _HEIGHT_IN, _painter(results, metrics[0]))
        storage.write_bytes(storage.join(uri, "plot.png"), png)
    summary: dict[str, Any] = {}
    if metrics and (best := results.best(metrics[0])):
        run, row = best
        summary = {"best_run": run, "best": _in_words(row.metric, row.value, row.label_fraction)}
    path = storage.join(uri, "report.html")
    notes = [f"Best run: {summary['best']} ({summary['best_run']})."] if summary else []
    notes += [f"Not in the curves: {run}: {why}" for run, why in missing.items()]
    sections = [_section(results, metric, table) for metric, table in tables.items()]
    page = page_of_runs(
        uri,
        list(results.by_run),
        results.rows,
        title=name,
        kind="sweep",
        noun="trial",
        warnings=[Note(text=text) for text in notes],
        sections=[*sections, _sharing_section(sharing)],
    )
    storage.write_text(path, page)
    return summary | {"report": path}


def _metrics(results: SweepResults) -> list[str]:
    """Those that were measured and say more than another."""
    outcome = outcome_metric(results.rows)
    measured = [metric for metric in METRICS if results.curves(metric)]
    found = [metric for metric in measured if metric == outcome or metric not in OUTCOMES]
    if all(row.label_scope == "decoder" for row in results.rows):
        # Of a LAM that saw the same labels in every trial.
        return [metric for metric in found if metric != "probe_r2"]
    return found


def _in_words(metric: str, value: float, fraction: float | None) -> str:
    shown = OUTCOMES[metric].number(value) if metric in OUTCOMES else f"{value:.3g}"
    return f"{METRICS[metric].lower()} {shown} with {100 * (fraction or 0):g} % of the labels"


# ---------------------------------------------------------------------------------------------
# Curves


def _painter(results: SweepResults, metric: str) -> Callable[[Axes], None]:
    curves, fractions = results.curves(metric), list(results.by_fraction)
    return lambda ax: _paint_curves(ax, curves, metric, fractions)


def _paint_curves(
    ax: Axes,
    curves: Mapping[CurveKey, Mapping[float, StudyRow]],
    metric: str,
    fractions: Sequence[float],
) -> None:
    """Labels rise by factors, so their axis is logarithmic; 0 stands apart at its left."""
    at = _positions(fractions)
    for i, (key, rows) in enumerate(curves.items()):
        color = charts.CYCLE[i % len(charts.CYCLE)]
        x = [at[fraction] for fraction in rows]
        intervals = [row.interval for row in rows.values()]
        ax.fill_between(
            x,
            [i.low for i in intervals],
            [i.high for i in intervals],
            color=color,
            alpha=0.13,
            lw=0,
        )
        style = "-" if i < len(charts.CYCLE) else (0, (4, 2))
        label = curve_name(key, rows)
        ax.plot(x, [i.mean for i in intervals], "o", ls=style, ms=4, color=color, label=label)
        for fraction, row in rows.items():
            ax.plot([at[fraction]] * len(row.per_seed), row.per_seed, "_", color=color, alpha=0.6)
    ax.set_xticks([at[f] for f in fractions], [f"{100 * f:g} %" for f in fractions])
    ax.set_xlabel("share of the labels")
    ax.set_title(METRICS[metric])
    ax.grid(axis="y")
    if metric in OUTCOMES:
        ax.set_ylim(OUTCOMES[metric].xlim)
    # Beside the curves, which leave no room.
    ax.legend(
        frameon=False, fontsize=8.5, handlelength=1.6, loc="center left", bbox_to_anchor=(1.02, 0.5)
    )


def _positions(fractions: Sequence[float]) -> dict[float, float]:
    positive = [math.log10(fraction) for fraction in fractions if fraction > 0]
    zero = min(positive, default=0.0) - 0.6
    return {f: math.log10(f) if f > 0 else zero for f in fractions}


def curve_name(key: CurveKey, rows: Mapping[float, StudyRow]) -> str:
    """The method of the sweep and what was measured, in words."""
    measured = named(next(iter(rows.values())).subject)
    return f"{key.method}: {measured}" if key.method else measured


# ---------------------------------------------------------------------------------------------
# Tables


def table_of(results: SweepResults, metric: str) -> Table:
    """A row per curve, a column per share of labels: mean over seeds and 95 % interval."""
    fractions = list(results.by_fraction)
    body = [
        [curve_name(key, rows), *(_cell(rows.get(f), metric) for f in fractions)]
        for key, rows in results.curves(metric).items()
    ]
    return Table(
        head=[_heading(metric), *(f"{100 * f:g} %" for f in fractions)],
        rows=body,
        caption="Columns are shares of the labeled training episodes. Means over training seeds "
        "with 95 % bootstrap intervals, for success and return over seeds and episodes.",
    )


def _heading(metric: str) -> str:
    return METRICS[metric] + (", %" if _is_share(metric) else "")


def _cell(row: StudyRow | None, metric: str) -> str:
    if row is None:
        return NO_VALUE
    return row.interval.written(_hundredths if _is_share(metric) else _decimal)


def _is_share(metric: str) -> bool:
    return metric in OUTCOMES and OUTCOMES[metric].is_share


def _hundredths(share: float) -> str:
    return f"{100 * share:.0f}"


def _decimal(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def _latex(tables: Mapping[str, Table]) -> str:
    """For a paper, with the package booktabs."""
    parts = []
    for table in tables.values():
        head, *rows = (
            " & ".join(_escaped(str(cell)) for cell in line) + r" \\"
            for line in (table.head, *table.rows)
        )
        columns = "l" + "c" * (len(table.head) - 1)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
        parts.append("\n".join([*lines, *rows, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    for plain, tex in (("%", r"\%"), ("_", r"\_"), ("τₐ", r"$\tau_a$"), ("²", "$^2$")):
        text = text.replace(plain, tex)
    return text


# ---------------------------------------------------------------------------------------------
# Page


def _section(results: SweepResults, metric: str, table: Table) -> Section:
    title = f"{METRICS[metric]} over the share of labels"
    blocks: list[Block] = [
        chart(
            charts.draw(_WIDTH_IN, _HEIGHT_IN, _painter(results, metric)),
            alt=f"{title}: one curve per method.",
            caption=f"{title}, with 95 % intervals; small ticks are single training seeds.",
        ),
        table,
    ]
    if metric == "success" and any(row.task == "slalom" for row in results.rows):
        blocks.append(Text(text=SLALOM_NOTE))
    return Section(id=metric, short=METRICS[metric], title=title, blocks=blocks)


def _sharing_section(sharing: Mapping[str, tuple[int, int]]) -> Section:
    table = Table(
        head=["Job", "Computed", "Without sharing"],
        rows=[[job, str(once), str(each)] for job, (once, each) in sharing.items()],
        caption="What two trials would do alike is computed once, in the folder stages/.",
    )
    return Section(id="sharing", short="Sharing", title="What the trials share", blocks=[table])
