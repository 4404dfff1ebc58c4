"""Compares training: each metric's curves of all runs on one plot, and the last values."""

from collections.abc import Mapping, Sequence
from typing import Any

from lafp.report import charts, drawings
from lafp.report.blocks import NO_VALUE, Block, Heading, Note, Section, Table, chart
from lafp.report.comparison.compared import ComparedRun, Part, Runs
from lafp.report.sections.training import DECODER_METRICS, LAM_PANELS, POLICY_METRICS, points
from lafp.runs.run_dir import StageDir
from lafp.runs.wording import number
from lafp.train.metrics.log import read_metrics

PANELS_PER_ROW = 3
_PANEL_WIDTH_IN = drawings.PAGE_WIDTH_IN / PANELS_PER_ROW
NUM_METRICS_IN_TERMINAL = 3
_OF_LAM = {
    metric: title if len(of_panel) == 1 else f"{title}, {label}"
    for title, of_panel in LAM_PANELS.items()
    for metric, label in of_panel
}
_KINDS = {"lam": "latent action model", "policy": "policies", "decoder": "action decoders"}
"""First part of a stage's name -> title of the section."""
_CHOSEN_BY = {"lam": "objective", "policy": "policy"}
"""First part of a stage's name -> section of its config whose choice gives the loss a meaning."""

_CAPTION = (
    "The last recorded value of each metric; where it was measured on resampled episodes, with its "
    "95 % interval."
)

Records = Sequence[Mapping[str, Any]]


def parts(runs: Runs, names: Sequence[str]) -> list[Part | None]:
    """Compares the training stages among ``names``: models of one kind are one section."""
    return [
        part(runs, title, [name for name in names if name.partition("/")[0] == kind])
        for kind, title in _KINDS.items()
    ]


def part(runs: Runs, title: str, names: Sequence[str]) -> Part | None:
    """Compares training stages in one section; None if they have no metrics."""
    blocks: list[Block] = []
    lines: list[str] = []
    for name in names:
        records = [read_metrics(each.stages[name].uri) for each in runs]
        titles = {
            metric: words
            for metric, words in _metrics_of(name).items()
            if any(points(of_run, metric)[0] for of_run in records)
        }
        if titles:
            blocks += [Heading(text=name)] if len(names) > 1 else []
            blocks += _warning(name, [each.stages[name] for each in runs])
            blocks += _charts(runs, records, titles, name)
            blocks.append(_table(runs, records, titles, _CAPTION if not lines else ""))
            lines.append(_line(name, records, titles))
    if not blocks:
        return None
    section = Section(
        id=f"training-{title.replace(' ', '-')}",
        short=f"Training: {title}",
        title=f"How did the {title} train?",
        blocks=blocks,
    )
    return Part(section, lines)


def _metrics_of(name: str) -> Mapping[str, str]:
    if name == "lam":
        return _OF_LAM
    if name.startswith("policy/"):
        return {metric: f"loss, {label}" for metric, label in POLICY_METRICS.items()}
    return DECODER_METRICS


def _warning(name: str, stages: Sequence[StageDir]) -> list[Block]:
    """Warns where the losses are different quantities."""
    key = _CHOSEN_BY.get(name.partition("/")[0])
    chosen = [str((stage.config().get(key) or {}).get("name")) for stage in stages] if key else []
    if len(set(chosen)) < 2:
        return []
    text = f"The {key} differs ({', '.join(chosen)}), so these losses are different quantities."
    return [Note(text=text, level="warning")]


def _charts(
    runs: Runs, records: Sequence[Records], titles: Mapping[str, str], name: str
) -> list[Block]:
    figures: list[Block] = []
    metrics = list(titles)
    for start in range(0, len(metrics), PANELS_PER_ROW):
        row = metrics[start : start + PANELS_PER_ROW]
        panels = {titles[metric]: _curves(runs, records, metric) for metric in row}
        losses = [titles[metric] for metric in row if metric.endswith("loss")]
        drawing = charts.curves(panels, log_y=losses, panel_width_in=_PANEL_WIDTH_IN)
        alt = f"{', '.join(panels)} of {name}, one curve per run."
        figures.append(chart(drawing, alt=alt))
    return figures


def _curves(runs: Runs, records: Sequence[Records], metric: str) -> list[charts.Line]:
    lines = []
    for each, of_run in zip(runs, records, strict=True):
        steps, values = points(of_run, metric)
        if steps:
            lines.append(_line_of(each, steps, values))
    return lines


def _line_of(run: ComparedRun, steps: list[float], values: list[float]) -> charts.Line:
    return charts.Line(title=run.label, x=steps, y=values, color=run.color, is_dashed=run.is_dashed)


def _table(
    runs: Runs, records: Sequence[Records], titles: Mapping[str, str], caption: str
) -> Table:
    steps = [max((record["step"] for record in of_run), default=0) for of_run in records]
    rows = [["Last step", *(f"{step:,}" for step in steps)]]
    rows += [[title, *(_last(r, metric) for r in records)] for metric, title in titles.items()]
    return Table(
        head=["Last value", *(each.label for each in runs)],
        rows=rows,
        caption=caption,
    )


def _last(records: Records, metric: str) -> str:
    """Writes the last value of a metric, with its interval where there is one."""
    ends = [points(records, f"{metric}{end}")[1] for end in ("", "_low", "_high")]
    if not ends[0]:
        return NO_VALUE
    texts = [number(values[-1]) for values in ends if values]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(texts) == 3 else texts[0]


def _line(name: str, records: Sequence[Records], titles: Mapping[str, str]) -> str:
    first = list(titles)[:NUM_METRICS_IN_TERMINAL]
    wanted = dict.fromkeys([*first, *(m for m in ("probe/r2",) if m in titles)])
    texts = [f"{titles[m]} {' | '.join(_last(r, m) for r in records)}" for m in wanted]
    return f"{name}: {'; '.join(texts)}"
