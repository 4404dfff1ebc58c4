"""LARY's regression: the error of the actions between two frames."""

from lafp.evaluate.latents.representations import subject_of
from lafp.evaluate.rows.grouped import Results
from lafp.report.blocks import Section, Table, Text
from lafp.report.sections.probe import PROBED, is_control


def section(results: Results) -> Section | None:
    """Shows the error of all features; None where it was not measured."""
    found = results.of_variant(results.variants[0], "lary_mse")
    names = [name for name in PROBED if name in found]
    if subject_of(names) is None:
        return None
    return Section(
        id="lary",
        short="LARY",
        title="LARY's regression",
        blocks=[
            Text(
                text="As the benchmark LARY (arXiv:2604.11689) does: a residual MLP predicts all "
                "actions between two frames, each dimension standardized, from pairs that do not "
                "overlap. The number is the lowest held-out error over 20 epochs, so the epoch is "
                "chosen on the episodes that it is measured on, for all features alike. Only "
                "numbers on LARY's own data can stand beside its scoreboard."
            ),
            Table(
                head=["Features", "MSE", "Pairs"],
                rows=[
                    [PROBED[name], str(found[name].interval), f"{found[name].subject.n:,}"]
                    for name in names
                ],
                emphasized=frozenset(i for i, name in enumerate(names) if not is_control(name)),
                caption="MSE: of standardized actions; about 1 is that of the mean action. "
                "Intervals: 95 %, over held-out episodes.",
            ),
        ],
    )
