"""LARY's two tasks: the error of the actions between two frames, and the classes of clips."""

from collections.abc import Callable, Mapping

from lafp.evaluate.latents.representations import subject_of
from lafp.evaluate.rows.grouped import Results
from lafp.evaluate.rows.statistics import Interval
from lafp.report.blocks import Section, Table, Text
from lafp.report.sections.probe import PROBED, is_control

CLASS_PROBED = PROBED | {"nothing": "Control: the most frequent class"}
"""Names of what is probed for classes."""


def regression_section(results: Results) -> Section | None:
    """Shows the error of all features; None where it was not measured."""
    table = _table(
        results,
        "lary_mse",
        PROBED,
        str,
        head=["Features", "MSE", "Pairs"],
        caption="MSE: of standardized actions; about 1 is that of the mean action. "
        "Intervals: 95 %, over held-out episodes.",
    )
    if table is None:
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
            table,
        ],
    )


def classification_section(results: Results) -> Section | None:
    """Shows the accuracy of all features; None where it was not measured."""
    table = _table(
        results,
        "lary_accuracy",
        CLASS_PROBED,
        Interval.in_percent,
        head=["Features", "Accuracy", "Clips"],
        caption="Intervals: 95 % (Wilson), over clips.",
    )
    if table is None:
        return None
    return Section(
        id="lary-classes",
        short="LARY, classes",
        title="Which action does a clip show?",
        blocks=[
            Text(
                text="As the benchmark LARY (arXiv:2604.11689) does: an attentive probe reads the "
                "features of the 8 pairs of neighbouring frames of a clip of 9, and names the "
                "class of its action. Five probes, each with its own learning rate, are trained on "
                "the table train; the number is that of the best on the table val, so the probe is "
                "chosen on the clips that it is measured on, for all features alike."
            ),
            table,
        ],
    )


def _table(
    results: Results,
    metric: str,
    titles: Mapping[str, str],
    written: Callable[[Interval], str],
    head: list[str],
    caption: str,
) -> Table | None:
    """Makes a table with a row for each of the features; None where none was measured."""
    found = results.of_variant(results.variants[0], metric)
    names = [name for name in titles if name in found]
    if subject_of(names) is None:
        return None
    return Table(
        head=head,
        rows=[
            [titles[name], written(found[name].interval), f"{found[name].subject.n:,}"]
            for name in names
        ],
        emphasized=frozenset(i for i, name in enumerate(names) if not is_control(name)),
        caption=caption,
    )
