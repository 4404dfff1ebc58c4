"""Shows whether latent actions hold the true ones: a linear probe beside its controls."""

import math
from collections.abc import Mapping, Sequence

from lafp.evaluate.latents.representations import ENCODER_PAIR, LAM, subject_of
from lafp.evaluate.probes.thorough_probe import AT
from lafp.evaluate.rows.grouped import Group, Results
from lafp.report import charts, drawings
from lafp.report.blocks import NO_VALUE, Block, Section, Table, Text, chart
from lafp.report.metrics import METRICS
from lafp.report.training_findings import PROBE_CONTROLS

PROBED = {
    "lam": "Latent action z",
    "encoder_pair": "Features of both frames",
    "encoder_difference": "Difference of the features",
    "embedding": "Control: the observation's embedding",
    "random_lam": "Control: z of an untrained model",
    "pixel_difference": "Control: difference of the pixels",
    "dinov2_difference": "Control: difference of DINOv2 features",
    "encoder_frame": "Control: features of the first frame",
    "nothing": "Control: nothing (mean action)",
}
_TITLES = {
    LAM: "Do the latent actions hold the true actions?",
    ENCODER_PAIR: "Do the frozen features hold the true actions?",
}
_TEXTS = {
    LAM: "A linear map is fitted from z to the true action on some labeled episodes and measured "
    "on others. It says little alone: experts' actions are predictable from the state, so the same "
    "probe runs on the observation's embedding, on an untrained latent action model of the same "
    "shape, on nothing, and, where they were measured, on differences of two frames. z is worth "
    "what it has above them.",
    ENCODER_PAIR: "A linear map is fitted from the frozen features of two neighbouring frames to "
    "the true action between them, on some labeled episodes, and measured on others: from both "
    "side by side, and from their difference. It says little alone: experts' actions are "
    "predictable from the state, so the same probe runs on the features of the first frame, on "
    "the difference of the pixels, and on nothing. An encoder is worth what it has above them.",
}

_OTHERS = ("standardized", "mlp", "noise", "seen", "unseen")
"""Other R² of the same features: metric without its prefix."""


def section(results: Results, variant: str | None) -> Section | None:
    """Shows the probe and its controls as dots with intervals, and as a table."""
    found, errors = (results.of_variant(variant, f"probe_{name}") for name in ("r2", "mse"))
    groups = {method: found[method] for method in PROBED if method in found}
    if (subject := subject_of(groups)) is None:
        return None
    num_seeds = len(groups[subject].per_seed)
    others = {name: results.of_variant(variant, f"probe_r2_{name}") for name in _OTHERS}
    others = {name: found for name, found in others.items() if found}
    rows = []
    for method, group in groups.items():
        r2 = group.interval.written(METRICS["probe_r2"].number)
        row = [PROBED[method], r2, METRICS["probe_mse"].written(errors.get(method))]
        row += [
            METRICS[f"probe_r2_{name}"].written(of_metric.get(method))
            for name, of_metric in others.items()
        ]
        each = " ".join(f"{value:z.2f}" for value in group.per_seed)
        rows.append([*row, *([each] if num_seeds > 1 else []), f"{group.subject.n:,}"])
    dots = [dot(method, group) for method, group in groups.items()]
    over = "the seeds" if num_seeds > 1 else "the held-out episodes"
    return Section(
        id="probe",
        short="Probe",
        title=_TITLES[subject],
        blocks=[
            Text(text=_TEXTS[subject]),
            chart(
                charts.dots([charts.DotPanel(rows=dots, xlabel="R² on held-out episodes")]),
                alt="R² of the linear probe and its controls, with 95 % intervals.",
            ),
            Table(
                head=[
                    "Linear probe of the true action",
                    "R²",
                    "MSE",
                    *(METRICS[f"probe_r2_{name}"].title for name in others),
                    *(["R² of each seed"] if num_seeds > 1 else []),
                    "Transitions",
                ],
                rows=rows,
                emphasized=frozenset(
                    index for index, method in enumerate(groups) if not is_control(method)
                ),
                caption=" ".join(
                    [
                        f"Intervals: 95 %, over {over}. MSE: actions in [-1, 1].",
                        *filter(None, (METRICS[f"probe_r2_{name}"].meaning for name in others)),
                        *_gains(results, variant, subject),
                    ]
                ),
            ),
            *_over_fit_size(results, variant),
        ],
    )


def is_control(method: str) -> bool:
    """Tells whether the features of one of ``PROBED`` are a control."""
    return PROBED[method].startswith("Control")


def side_by_side(
    found: Mapping[str, Mapping[str, Group]], names: Sequence[str], titles: Mapping[str, str]
) -> tuple[list[charts.DotPanel], list[list[str]]]:
    """Makes a panel of dots for each metric, and a table with a row for each of some features.

    Args:
        found: Metric -> features -> group.
        names: The features, of ``PROBED``. They may lack metrics.
        titles: Metric -> title, in the order of the panels and columns.
    """
    panels = [
        charts.DotPanel(
            rows=[dot(name, found[metric][name]) for name in names if name in found[metric]],
            xlabel=title,
        )
        for metric, title in titles.items()
    ]
    rows = [
        [
            PROBED[name],
            *(
                str(found[metric][name].interval) if name in found[metric] else NO_VALUE
                for metric in titles
            ),
        ]
        for name in names
    ]
    return panels, rows


def dot(method: str, group: Group) -> charts.Dot:
    """Draws the probe of one of ``PROBED``; controls are open rings."""
    return charts.Dot.of(
        group,
        title=PROBED[method],
        color=drawings.GREY if is_control(method) else drawings.BLUE,
        is_open=is_control(method),
    )


def _gains(results: Results, variant: str | None, subject: str) -> list[str]:
    """Says what the subject has above each control, as paired differences."""
    what, texts = "z has" if subject == LAM else "The features of both frames have", []
    for control, words in PROBE_CONTROLS.items():
        found = results.of_variant(variant, f"probe_gain_over_{control}")
        if subject in found:
            gain = found[subject].interval.written("{:+.2f}".format)
            texts.append(f"{what} {gain} R² above that {words}, on the same episodes.")
    return texts


def _over_fit_size(results: Results, variant: str | None) -> list[Block]:
    """Draws R² over the number of transitions that the probe is fitted on."""
    sizes = sorted(
        {int(row.metric.removeprefix(AT)) for row in results.rows if row.metric.startswith(AT)}
    )
    lines: list[charts.Line] = []
    for method, name in PROBED.items():
        found = {size: results.of_variant(variant, f"{AT}{size}").get(method) for size in sizes}
        groups = {size: group for size, group in found.items() if group is not None}
        if len(groups) > 1:
            lines.append(
                charts.Line(
                    title=name,
                    x=[math.log10(size) for size in groups],
                    y=[group.value for group in groups.values()],
                    points=[group.per_seed for group in groups.values()],
                    color=drawings.CYCLE[len(lines)],
                )
            )
    if not lines:
        return []
    figure = over_fit_size(lines, sizes)
    text = "R² of the linear probe over the number of transitions that it is fitted on. Where it "
    text += "still rises at the end, more labels would find more in z."
    return [chart(figure, alt="R² of the probe over its number of labels.", caption=text)]


def over_fit_size(lines: Sequence[charts.Line], sizes: Sequence[int]) -> drawings.Drawing:
    """Draws R² over the logarithm of the number of transitions."""
    return charts.curves(
        {"R² on held-out episodes": lines},
        xlabel="labeled transitions",
        xticks={math.log10(size): f"{size:,}" for size in sizes},
        panel_width_in=drawings.PAGE_WIDTH_IN / 2,  # room for the names of the controls
    )
