"""Shows success at each task of an environment that has several."""

from lafp.evaluate.rows.grouped import Results
from lafp.evaluate.rows.results import DEMONSTRATOR, SUCCESS_ON
from lafp.report.blocks import NO_VALUE, Section, Table
from lafp.report.methods import named, policies
from lafp.report.metrics import OUTCOMES
from lafp.report.sections.outcome import on_widthless


def section(results: Results, variant: str | None) -> Section | None:
    """Shows a row per task, a column per method; None if the environment has only one task."""
    found_metrics = (row.metric for row in results.rows if row.variant == variant)
    metrics = list(dict.fromkeys(name for name in found_metrics if name.startswith(SUCCESS_ON)))
    expert = results.of_variant(variant, "success").get(DEMONSTRATOR)
    shown = [*([expert] if expert else []), *policies(results, variant, "success")]
    if not metrics or not shown:
        return None
    rows, all_groups = [], []
    for metric in metrics:
        found = results.of_variant(variant, metric)
        groups = [found.get(group.subject.label) for group in shown]
        all_groups += [group for group in groups if group]
        cells = [OUTCOMES["success"].written(g.interval) if g else NO_VALUE for g in groups]
        rows.append([metric.removeprefix(SUCCESS_ON), *cells])
    table = Table(
        head=["Task", *(named(group.subject) for group in shown)],
        rows=rows,
        caption=f"Success at each task, in {all_groups[0].subject.n:,} episodes each. Intervals: "
        "95 %, over the episodes of one training seed, or over training seeds where there are "
        f"several.{on_widthless(all_groups)}",
    )
    title = "How often does it succeed at each task?"
    return Section(id="per-task", short="Per task", title=title, blocks=[table])
