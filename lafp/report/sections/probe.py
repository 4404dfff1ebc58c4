"""Whether latent actions hold the true ones: a linear probe beside its controls."""

from lafp.evaluate.grouped import Results
from lafp.report import charts
from lafp.report.blocks import Section, Table, Text, chart
from lafp.report.metrics import METRICS

_PROBED = {
    "lam": "Latent action z",
    "embedding": "Control: the observation's embedding",
    "random_lam": "Control: z of an untrained model",
    "nothing": "Control: nothing (mean action)",
}


def section(results: Results, variant: str | None) -> Section | None:
    """Shows the probe and its controls as dots with intervals, and as a table."""
    found, errors = (results.of_variant(variant, f"probe_{name}") for name in ("r2", "mse"))
    groups = {method: found[method] for method in _PROBED if method in found}
    if "lam" not in groups:
        return None
    num_seeds = len(groups["lam"].per_seed)
    rows = []
    for method, group in groups.items():
        r2 = group.interval.written(METRICS["probe_r2"].number)
        row = [_PROBED[method], r2, METRICS["probe_mse"].written(errors.get(method))]
        each = " ".join(f"{value:z.2f}" for value in group.per_seed)
        rows.append([*row, *([each] if num_seeds > 1 else []), f"{group.subject.n:,}"])
    dots = [
        charts.Dot.of(
            group,
            label=_PROBED[method],
            color=charts.BLUE if method == "lam" else charts.GREY,
            is_open=method != "lam",
        )
        for method, group in groups.items()
    ]
    over = "the seeds" if num_seeds > 1 else "the held-out episodes"
    return Section(
        id="probe",
        short="Probe",
        title="Do the latent actions hold the true actions?",
        blocks=[
            Text(
                text="A linear map is fitted from z to the true action on some labeled episodes "
                "and measured on others. It says little alone: experts' actions are predictable "
                "from the state, so the same probe runs on the observation's embedding, on an "
                "untrained latent action model of the same shape, and on nothing. z is worth what "
                "it has above them."
            ),
            chart(
                charts.dots([charts.DotPanel(rows=dots, xlabel="R² on held-out episodes")]),
                alt="R² of the linear probe and its controls, with 95 % intervals.",
            ),
            Table(
                head=[
                    "Linear probe of the true action",
                    "R²",
                    "MSE",
                    *(["R² of each seed"] if num_seeds > 1 else []),
                    "Transitions",
                ],
                rows=rows,
                emphasized=frozenset([0]),
                caption=f"Intervals: 95 %, bootstrap over {over}. MSE: actions in [-1, 1].",
            ),
        ],
    )
