"""A study, written down: ``results.parquet``, ``table.md``, ``plot.png`` and ``report.html``."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from lafp import storage
from lafp.eval import plots
from lafp.eval.report import page_template
from lafp.eval.report_sections.blocks import (
    NO_VALUE,
    Block,
    Note,
    Section,
    Table,
    Text,
    anchored,
    chart,
)
from lafp.eval.report_sections.result import SLALOM_NOTE, color_of, is_lafp, name_of
from lafp.eval.results import DEMONSTRATOR, Result, write_results
from lafp.eval.statistics import Interval
from lafp.eval.study import StudyResults, StudyRow

_COLUMNS = {
    "success": "Success",
    "mode_coverage": "Mode coverage",
    "side_entropy": "Side entropy",
    "action_mse": "Action MSE",
}
_ALIGNMENT = {
    "alignment_to_idm": "Distance to IDM latents",
    "alignment_to_deployed": "Distance to deployed latents",
    "action_mse_on_idm": "Action MSE on IDM latents",
    "action_mse_on_deployed": "Action MSE on deployed latents",
}
_SHARES = ("mode_coverage", "side_entropy")
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
    storage.write_text(storage.join(uri, "table.md"), markdown(results))
    if panels := {v: rows for v in _variants(results) if (rows := _dots(results, v))}:
        storage.write_bytes(storage.join(uri, "plot.png"), _plot_png(panels))
    path = storage.join(uri, "report.html")
    storage.write_text(path, _page(uri, name, results))
    findings = {
        f"found {v or name}": text for v in _variants(results) if (text := headline(results, v))
    }
    return findings | {"report": path}


def headline(results: StudyResults, variant: str | None) -> str | None:
    """LAFP against the rows that settle it, from the numbers; None where they are missing."""
    rows = [row for row in results.of_metric("success") if row.subject.variant == variant]
    lafp = next((row for row in rows if is_lafp(row.subject)), None)
    if lafp is None:
        return None
    cloning = [row for row in rows if row.subject.method.startswith("latent_bc")]
    others = [max(cloning, key=lambda row: row.interval.mean)] if cloning else []
    others += [row for row in rows if _differs_in_anchor(row.subject, lafp.subject)]
    gains = [
        f"{_points(results.gain(variant, lafp.subject.label, row.subject.label))} over "
        f"{_named(row.subject)}{_modes_kept(results, row)}"
        for row in others
    ]
    text = f"{_named(lafp.subject)} succeeds in {_percent(lafp.interval)}"
    text += _modes_kept(results, lafp)
    return f"{text}: {'; '.join(gains)}." if gains else f"{text}."


def _modes_kept(results: StudyResults, row: StudyRow) -> str:
    """Success alone would hide a policy that always goes the same way."""
    for coverage in results.of_metric("mode_coverage"):
        if coverage.key == row.key:
            return f" (mode coverage {coverage.interval.mean:.2f})"
    return ""


def _differs_in_anchor(row: Result, lafp: Result) -> bool:
    same = (row.noise, row.solver_steps) == (lafp.noise, lafp.solver_steps)
    return row.method == "latent_flow" and same and row.anchor_time in (0.0, 1.0)


def markdown(results: StudyResults) -> str:
    """The tables of every variant, to be pasted into a document."""
    parts: list[str] = []
    for variant in _variants(results):
        tables = [_table(results, variant), _alignment_table(results, variant)]
        parts += [f"### {variant}"] if variant else []
        parts += [text] if (text := headline(results, variant)) else []
        parts += [_markdown_table(table) for table in tables if table]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _variants(results: StudyResults) -> list[str | None]:
    return list(dict.fromkeys(row.variant for row in results.rows))


def _of_variant(results: StudyResults, variant: str | None, metric: str) -> dict[str, StudyRow]:
    rows = results.of_metric(metric)
    return {row.subject.label: row for row in rows if row.subject.variant == variant}


def _table(results: StudyResults, variant: str | None) -> Table:
    """One row per method, one column per metric."""
    by_metric = {metric: _of_variant(results, variant, metric) for metric in _COLUMNS}
    success = by_metric["success"]
    metrics = [metric for metric, rows in by_metric.items() if rows]
    body = []
    for label, row in success.items():
        cells = [_cell(by_metric[metric].get(label), metric) for metric in metrics]
        subject = row.subject
        each = " ".join(f"{100 * value:.0f}" for value in row.per_seed)
        steps = str(subject.solver_steps or "")
        body.append([_method(subject), _noise(subject), steps, *cells, each])
    num = max((len(row.per_seed) for row in success.values()), default=0)
    rows = enumerate(success.values())
    return Table(
        head=["Method", "Noise", "Steps", *(_COLUMNS[metric] for metric in metrics), "Seeds, %"],
        rows=body,
        num_text_columns=2,
        emphasized=frozenset([next((i for i, row in rows if is_lafp(row.subject)), -1)]),
        caption=f"Means over {num} training seeds with 95 % bootstrap intervals, for success over "
        "seeds and episodes. Mode coverage and side entropy are over the demonstrators'; seeds "
        "where no episode passed a fork are left out. Seeds: success of each, in percent.",
    )


def _alignment_table(results: StudyResults, variant: str | None) -> Table | None:
    """Why the interpolation works: one row per action decoder."""
    by_metric = {metric: _of_variant(results, variant, metric) for metric in _ALIGNMENT}
    by_decoder: dict[tuple[str, float | None], list[str]] = {}
    for label, row in by_metric["alignment_to_idm"].items():
        subject = row.subject
        cells = [_cell(rows.get(label), metric) for metric, rows in by_metric.items()]
        by_decoder.setdefault((subject.method, subject.anchor_time), [_method(subject), *cells])
    if not by_decoder:
        return None
    return Table(
        head=["Action decoder", *_ALIGNMENT.values()],
        rows=list(by_decoder.values()),
        caption="Energy distance, in standardized latents, of what the action decoder was trained "
        "on, from raw IDM latents and from what it meets at deployment; and its action error on "
        "both, paired with the demonstrated action: where a policy keeps several modes, a "
        "deployed latent is often another mode's, and its error no fault. A decoder should know "
        "the latents that it meets (small distance to deployed) in pairs that are right (small "
        "error on IDM latents).",
    )


def _method(row: Result) -> str:
    return "Demonstrators" if row.method == DEMONSTRATOR else name_of(row)


def _noise(row: Result) -> str:
    return f"held {row.noise_hold_steps}" if row.noise == "held" else row.noise or ""


def _cell(row: StudyRow | None, metric: str) -> str:
    if row is None:
        return NO_VALUE
    if metric == "success":
        return _percent(row.interval)
    return f"{row.interval.mean:.2f}" if metric in _SHARES else f"{row.interval.mean:.3f}"


def _percent(value: Interval) -> str:
    return f"{100 * value.mean:.0f} % [{100 * value.low:.0f}, {100 * value.high:.0f}]"


def _points(gain: Interval) -> str:
    return f"{100 * gain.mean:+.0f} points [{100 * gain.low:+.0f}, {100 * gain.high:+.0f}]"


def _named(row: Result) -> str:
    detail = ", ".join(
        text
        for text in (
            f"{_noise(row)} noise" if row.noise else "",
            f"{row.solver_steps} steps" if row.solver_steps else "",
        )
        if text
    )
    return f"{name_of(row)}, {detail}" if detail else name_of(row)


# ---------------------------------------------------------------------------------------------
# Charts and page


def _dots(results: StudyResults, variant: str | None) -> list[plots.Dot]:
    rows = _of_variant(results, variant, "success").values()
    policies = [row for row in rows if row.subject.method != DEMONSTRATOR]
    return [
        plots.Dot(
            label=_named(row.subject),
            value=row.interval.mean,
            low=row.interval.low,
            high=row.interval.high,
            color=color_of(row.subject),
            is_open=not is_lafp(row.subject),
            points=row.per_seed,
        )
        for row in policies
    ]


def _curves(results: StudyResults, column: str) -> dict[str, list[plots.Line]]:
    """Success over one column: a panel per variant, a line per method that has three values."""
    panels: dict[str, list[plots.Line]] = {}
    for variant in _variants(results):
        series: dict[str, list[StudyRow]] = {}
        for row in _of_variant(results, variant, "success").values():
            if getattr(row.subject, column) is not None:
                series.setdefault(_other_than(column, row.subject), []).append(row)
        lines = [
            _line(name, column, rows, plots.CYCLE[i % len(plots.CYCLE)])
            for i, (name, rows) in enumerate(series.items())
            if len(rows) > 2
        ]
        if lines:
            panels[variant or "success"] = lines
    return panels


def _other_than(column: str, row: Result) -> str:
    anchor = "" if column == "anchor_time" else f"{anchored(row.anchor_time)}, "
    steps = "" if column == "solver_steps" else f", {row.solver_steps} steps"
    return f"{anchor}{_noise(row)} noise{steps}"


def _line(name: str, column: str, rows: Sequence[StudyRow], color: str) -> plots.Line:
    ordered = sorted(rows, key=lambda row: getattr(row.subject, column))
    return plots.Line(
        label=name,
        x=[getattr(row.subject, column) for row in ordered],
        y=[row.interval.mean for row in ordered],
        band=(
            [row.interval.low for row in ordered],
            [row.interval.high for row in ordered],
        ),
        color=color,
    )


def _plot_png(panels: Mapping[str | None, Sequence[plots.Dot]]) -> bytes:
    """Success of every method, the variants side by side."""
    num_columns = min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    most = max(map(len, panels.values()))

    def paint(axes: Any) -> None:
        axes = _listed(axes)
        for i, (variant, rows) in enumerate(panels.items()):
            plots.paint_dots(axes[i], rows, "success", xlim=(-0.02, 1.02))
            axes[i].set_title(variant or "")
            if i % num_columns:  # the same methods as in the panel at the left
                axes[i].set_yticklabels([])
        for ax in axes[len(panels) :]:
            ax.set_axis_off()

    width_in = 3.4 + 3.2 * num_columns
    return plots.draw_png(width_in, (0.9 + 0.27 * most) * num_rows, paint, num_columns, num_rows)


def _listed(axes: Any) -> list[Axes]:
    return axes if isinstance(axes, list) else [axes]


def _page(uri: str, name: str, results: StudyResults) -> str:
    sections = [_section(results, variant) for variant in _variants(results)]
    sections += [s for column in _CURVES if (s := _curve_section(results, column))]
    headlines = [
        f"{variant}: {text}" if variant else text
        for variant in _variants(results)
        if (text := headline(results, variant))
    ]
    seeds = sorted({row.seed for row in results.rows if row.seed is not None})
    return page_template().render(
        title=name,
        eyebrow="lafp study",
        uri=uri,
        version=version("lafp"),
        css=Markup(files("lafp.eval").joinpath("templates/report.css").read_text()),
        lead=f"{len(results.runs)} runs, seeds {', '.join(map(str, seeds))}. Intervals are 95 % "
        "bootstrap intervals over training seeds and episodes; with few seeds they are too narrow.",
        facts=[],
        headline=None,
        warnings=[Note(text=text) for text in headlines],
        sections=[*sections, _runs_section(results)],
    )


def _section(results: StudyResults, variant: str | None) -> Section:
    rows = _dots(results, variant)
    blocks: list[Block] = []
    if rows:
        blocks += [
            chart(
                plots.dots(rows, "success, share of episodes", xlim=(-0.02, 1.02)),
                alt="Success rate of each method with its 95 % interval and its seeds.",
                caption="Success in rollouts; every tick is one training seed. τₐ is where the "
                "solver starts when the action decoder is trained: 0 = noise, 1 = the "
                "demonstrator's own latent action.",
            ),
            _table(results, variant),
        ]
        if alignment := _alignment_table(results, variant):
            blocks.append(alignment)
    if any(row.task == "slalom" for row in results.rows if row.variant == variant):
        blocks.append(Text(text=SLALOM_NOTE))
    title = variant or "Does it work?"
    return Section(
        id=f"variant-{variant or 'all'}", short=variant or "Success", title=title, blocks=blocks
    )


def _curve_section(results: StudyResults, column: str) -> Section | None:
    panels = _curves(results, column)
    if not panels:
        return None
    title = _CURVES[column]
    figure = chart(
        plots.curves(panels, xlabel=column, height_in=2.6),
        alt=f"Success over {title}.",
        caption=f"Success over {title}, with 95 % intervals.",
    )
    return Section(id=column, short=column, title=f"Success over {title}", blocks=[figure])


def _runs_section(results: StudyResults) -> Section:
    links = [
        Markup('<a href="runs/{0}/report.html">{0}</a>').format(run.rpartition("/")[2])
        for run in results.runs
    ]
    table = Table(head=["Run, with its own report"], rows=[[link] for link in links])
    return Section(id="runs", short="Runs", title="The runs", blocks=[table])
