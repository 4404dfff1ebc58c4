"""Shows success at each task of an environment that has several."""

from lafp.evaluate.grouped import Results
from lafp.evaluate.results import DEMONSTRATOR, SUCCESS_ON
from lafp.report.blocks import NO_VALUE, Section, Table
from lafp.report.methods import named, policies
from lafp.report.metrics import OUTCOMES


def section(results: Results, variant: str | None) -> Section | None:
    """Shows a row per task, a column per method; None if the environment has only one task."""
    metrics = list(dict.fromkeys(r.metric for r in results.rows if r.metric.startswith(SUCCESS_ON)))
    expert = results.of_variant(variant, "success").get(DEMONSTRATOR)
    shown = [*([expert] if expert else []), *policies(results, variant, "success")]
    if not metrics or not shown:
        return None
    rows = []
    for metric in metrics:
        found = results.of_variant(variant, metric)
        groups = [found.get(group.subject.label) for group in shown]
        cells = [OUTCOMES["success"].written(g.interval) if g else NO_VALUE for g in groups]
        rows.append([metric.removeprefix(SUCCESS_ON), *cells])
    first = results.of_variant(variant, metrics[0])
    num = next(iter(first.values())).subject.n
    table = Table(
        head=["Task", *(named(group.subject) for group in shown)],
        rows=rows,
        caption=f"Success at each task, in {num:,} episodes each. Intervals: 95 %, over the "
        "episodes of one training seed, or over training seeds where there are several.",
    )
    title = "How often does it succeed at each task?"
    return Section(id="per-task", short="Per task", title=title, blocks=[table])
