"""How much of z changes with the background, on the same episodes before two of them."""

from lafp.evaluate.latents.representations import subject_of
from lafp.evaluate.rows.grouped import Results
from lafp.report import charts, drawings
from lafp.report.blocks import Section, Table, Text, chart
from lafp.report.sections.probe import PROBED, is_control, side_by_side

_METRICS = {
    "background_share": "Share of the background",
    "action_share": "Share of the action",
}


def section(results: Results) -> Section | None:
    """Shows both shares of all features; None where no background was swapped."""
    found = {name: results.of_variant(results.variants[0], name) for name in _METRICS}
    names = [name for name in PROBED if name in found["background_share"]]
    if subject_of(names) is None:
        return None
    panels, rows = side_by_side(found, names, _METRICS)
    return Section(
        id="backgrounds",
        short="Backgrounds",
        title="What changes with the background?",
        blocks=[
            Text(
                text="The same held-out episodes before two backgrounds: motion and actions are "
                "equal, so any difference comes from the background. A latent action should "
                "follow the action and not the background."
            ),
            chart(
                charts.dots(panels, len(panels), width_in=drawings.PAGE_WIDTH_IN),
                alt="Shares of background and action in the variance, with 95 % intervals.",
            ),
            Table(
                head=["Features", *_METRICS.values()],
                rows=rows,
                emphasized=frozenset(i for i, name in enumerate(names) if not is_control(name)),
                caption="Share of the background: variance of one transition's features over "
                "backgrounds, over their variance over transitions and backgrounds; 0 where the "
                "background changes nothing, 1 (or more, by chance) where nothing else does. Share "
                "of the action: what a linear map of the true action predicts of the latter "
                "variance, on episodes that it was not fitted on. The rest is what else the "
                "episodes show. Intervals: 95 %, over episodes.",
            ),
        ],
    )
