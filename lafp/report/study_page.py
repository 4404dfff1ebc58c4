"""A study, written down: ``results.parquet``, ``table.md``, ``plot.png`` and ``report.html``."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from lafp import storage
from lafp.evaluate.results import DEMONSTRATOR, Result, write_results
from lafp.evaluate.study import StudyResults, StudyRow
from lafp.report import charts, study_overview
from lafp.report.blocks import (
    Block,
    Note,
    Section,
    Table,
    Text,
    anchored,
    chart,
)
from lafp.report.run_page import render_page
from lafp.report.sections.outcome import OUTCOMES, Outcome
from lafp.report.sections.result import SLALOM_NOTE, color_of, is_lafp
from lafp.report.study_tables import (
    alignment_table,
    headline,
    headline_parts,
    markdown,
    markdown_table,
    named,
    noise_of,
    probe_table,
    table_of,
)

_CURVES = {
    "anchor_time": "anchor_time of the action decoder's training",
    "solver_steps": "solver steps",
}


def write_study(uri: str, name: str, results: StudyResults) -> dict[str, Any]:
    """Writes the study's files into its folder.

    Returns:
        A summary: what was found, in words, and where the page is.
    """
    write_results(storage.join(uri, "results.parquet"), results.rows)
    overview = study_overview.table_of(results)
    tables = f"{markdown_table(overview)}\n" if overview else markdown(results)
    storage.write_text(storage.join(uri, "table.md"), tables)
    panels = {v: rows for v in results.variants() if (rows := _dots(results, v))}
    if picture := study_overview.png(results):
        storage.write_bytes(storage.join(uri, "plot.png"), picture)
    elif panels:
        storage.write_bytes(
            storage.join(uri, "plot.png"), _plot_png(panels, OUTCOMES[results.outcome])
        )
    path = storage.join(uri, "report.html")
    storage.write_text(path, _page(uri, name, results))
    findings = [
        f"{v or name}: {text}" for v in results.variants() if (text := headline(results, v))
    ]
    return {"findings": findings, "report": path}


# ---------------------------------------------------------------------------------------------
# Charts and page


def _dots(results: StudyResults, variant: str | None) -> list[charts.Dot]:
    rows = results.of_variant(variant, results.outcome).values()
    policies = [row for row in rows if row.subject.method != DEMONSTRATOR]
    return [
        charts.Dot(
            label=named(row.subject),
            value=row.interval.mean,
            low=row.interval.low,
            high=row.interval.high,
            color=color_of(row.subject),
            is_open=not is_lafp(row.subject),
            points=row.per_seed,
        )
        for row in policies
    ]


def _curves(results: StudyResults, column: str) -> dict[str, list[charts.Line]]:
    """The outcome over one column: a panel per variant, a line per method that has three values."""
    panels: dict[str, list[charts.Line]] = {}
    for variant in results.variants():
        series: dict[str, list[StudyRow]] = {}
        for row in results.of_variant(variant, results.outcome).values():
            if getattr(row.subject, column) is not None:
                series.setdefault(_other_than(column, row.subject), []).append(row)
        lines = [
            _line(name, column, rows, charts.CYCLE[i % len(charts.CYCLE)])
            for i, (name, rows) in enumerate(series.items())
            if len(rows) > 2
        ]
        if lines:
            panels[variant or OUTCOMES[results.outcome].title] = lines
    return panels


def _other_than(column: str, row: Result) -> str:
    anchor = "" if column == "anchor_time" else f"{anchored(row.anchor_time)}, "
    steps = "" if column == "solver_steps" else f", {row.solver_steps} steps"
    return f"{anchor}{noise_of(row)} noise{steps}"


def _line(name: str, column: str, rows: Sequence[StudyRow], color: str) -> charts.Line:
    ordered = sorted(rows, key=lambda row: getattr(row.subject, column))
    return charts.Line(
        label=name,
        x=[getattr(row.subject, column) for row in ordered],
        y=[row.interval.mean for row in ordered],
        band=(
            [row.interval.low for row in ordered],
            [row.interval.high for row in ordered],
        ),
        color=color,
    )


def _plot_png(panels: Mapping[str | None, Sequence[charts.Dot]], outcome: Outcome) -> bytes:
    """Outcome of every method, the variants side by side."""
    num_columns = min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    most = max(map(len, panels.values()))
    labels = [[dot.label for dot in rows] for rows in panels.values()]

    def paint(axes: Any) -> None:
        axes = _listed(axes)
        for i, (variant, rows) in enumerate(panels.items()):
            charts.paint_dots(axes[i], rows, outcome.axis, xlim=outcome.xlim)
            axes[i].set_title(variant or "")
            if i % num_columns and labels[i] == labels[i - 1]:
                axes[i].set_yticklabels([])
        for ax in axes[len(panels) :]:
            ax.set_axis_off()

    width_in = 3.4 + 3.2 * num_columns
    return charts.draw_png(width_in, (0.9 + 0.27 * most) * num_rows, paint, num_columns, num_rows)


def _listed(axes: Any) -> list[Axes]:
    return axes if isinstance(axes, list) else [axes]


def _page(uri: str, name: str, results: StudyResults) -> str:
    sections = [overview] if (overview := study_overview.section(results)) else []
    sections += [_section(results, variant) for variant in results.variants()]
    sections += [s for column in _CURVES if (s := _curve_section(results, column))]
    headlines = [
        Markup("<br>").join([f"{variant}: {lines[0]}" if variant else lines[0], *lines[1:]])
        for variant in results.variants()
        if (lines := headline_parts(results, variant))
    ]
    return page_of_runs(
        uri,
        results.runs,
        results.rows,
        title=name,
        kind="study",
        noun="run",
        warnings=[Note(text=text) for text in headlines],
        sections=sections,
    )


def page_of_runs(
    uri: str,
    runs: Sequence[str],
    rows: Iterable[Result],
    *,
    title: str,
    kind: str,
    noun: str,
    warnings: Sequence[Note],
    sections: Sequence[Section],
) -> str:
    """The page about several runs, with links to the page of each, as HTML.

    Args:
        uri: The folder that holds ``runs/``.
        runs: URIs.
        rows: Of all of them.
        title: In the largest letters.
        kind: ``study`` or ``sweep``.
        noun: What it calls a run.
        warnings: What a reader must know first.
        sections: What there is to see, links aside.
    """
    seeds = sorted({row.seed for row in rows if row.seed is not None})
    return render_page(
        uri,
        title=title,
        eyebrow=f"lafp {kind}",
        lead=f"{len(runs)} {noun}s, seeds {', '.join(map(str, seeds))}. Intervals are 95 % "
        "bootstrap intervals over training seeds and episodes; with few seeds they are too narrow.",
        warnings=warnings,
        sections=[*sections, _links(runs, noun)],
    )


def _links(runs: Sequence[str], noun: str) -> Section:
    links = [
        Markup('<a href="runs/{0}/report.html">{0}</a>').format(run.rpartition("/")[2])
        for run in runs
    ]
    table = Table(
        head=[f"{noun.capitalize()}, with its own report"], rows=[[link] for link in links]
    )
    return Section(id="runs", short=f"{noun.capitalize()}s", title=f"The {noun}s", blocks=[table])


def _section(results: StudyResults, variant: str | None) -> Section:
    rows, outcome = _dots(results, variant), OUTCOMES[results.outcome]
    blocks: list[Block] = []
    if len(rows) > 1:  # one dot says no more than the table
        blocks += [
            chart(
                charts.dots(rows, outcome.axis, xlim=outcome.xlim),
                alt="Outcome of each method with its 95 % interval and its seeds.",
                caption=f"In rollouts: {outcome.axis}; every tick is one training seed. "
                "τₐ is where the solver starts when the action decoder is trained: 0 = noise, "
                "1 = the demonstrator's own latent action.",
            ),
        ]
    tables = (
        table_of(results, variant),
        probe_table(results, variant),
        alignment_table(results, variant),
    )
    blocks += [table for table in tables if table]
    if any(row.task == "slalom" for row in results.rows if row.variant == variant):
        blocks.append(Text(text=SLALOM_NOTE))
    title = variant or "Does it work?"
    short = variant or outcome.title
    return Section(id=f"variant-{variant or 'all'}", short=short, title=title, blocks=blocks)


def _curve_section(results: StudyResults, column: str) -> Section | None:
    panels = _curves(results, column)
    if not panels:
        return None
    title = f"{OUTCOMES[results.outcome].title} over {_CURVES[column]}"
    figure = chart(
        charts.curves(panels, xlabel=column, height_in=2.6),
        alt=f"{title}.",
        caption=f"{title}, with 95 % intervals.",
    )
    return Section(id=column, short=column, title=title, blocks=[figure])
