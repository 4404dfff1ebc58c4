"""The one table of methods: a row per method, a column per metric that was measured."""

from collections.abc import Sequence

from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import RETURN_ABOVE_RANDOM, Subject, without_repeats
from lafp.report.blocks import Table
from lafp.report.methods import lafp_of, name_of, noise_of
from lafp.report.metrics import METRICS, OUTCOMES

_SETTINGS = {
    "Noise": noise_of,
    "Steps": lambda subject: str(subject.solver_steps or ""),
    "Actions": lambda subject: "sampled" if subject.sample_actions else "",
}


def method_table(
    results: Results,
    variant: str | None,
    groups: Sequence[Group],
    metrics: Sequence[str],
    *,
    caption: str,
    heading: str = "Method",
    settings: Sequence[str] = tuple(_SETTINGS),
) -> Table:
    """Makes a table of means over seeds. The outcome has its interval and, last, each seed's value.

    A normalized return has its interval too.

    Args:
        results: Results that hold the metrics.
        variant: Variant of the methods.
        groups: Any metric of the methods, in the order of the rows.
        metrics: Columns; those that no method has are left out.
        caption: Below the table, before the meanings of the metrics.
        heading: Head of the first column.
        settings: Keys of ``_SETTINGS``, which get a column if a method has them.
    """
    found = {metric: results.of_variant(variant, metric) for metric in metrics}
    shown = without_repeats([metric for metric, of_label in found.items() if of_label])
    subjects = [group.subject for group in groups]
    texts_of = {
        title: _SETTINGS[title]
        for title in settings
        if any(_SETTINGS[title](subject) for subject in subjects)
    }
    outcome, lafp = OUTCOMES[results.outcome], lafp_of(results, variant)
    has_seeds = results.outcome in shown and any(len(group.per_seed) > 1 for group in groups)

    def words(subject: Subject) -> list[str]:
        return [name_of(subject), *(text(subject) for text in texts_of.values())]

    def cells(subject: Subject) -> list[str]:
        of_metrics = [(metric, found[metric].get(subject.label)) for metric in shown]
        texts = [
            OUTCOMES[metric].written(group.interval)
            if group and metric in (results.outcome, RETURN_ABOVE_RANDOM)
            else METRICS[metric].written(group)
            for metric, group in of_metrics
        ]
        if has_seeds:
            group = found[results.outcome].get(subject.label)
            per_seed = group.per_seed if group else ()
            texts.append(" ".join(outcome.number(v).removesuffix(" %") for v in per_seed))
        return [*words(subject), *texts]

    seeds = [f"Each seed{', %' if outcome.is_share else ''}"] if has_seeds else []
    meanings = filter(None, (METRICS[metric].meaning for metric in shown))
    return Table(
        head=[heading, *texts_of, *(METRICS[metric].title for metric in shown), *seeds],
        rows=[cells(subject) for subject in subjects],
        num_text_columns=1 + ("Noise" in texts_of),
        emphasized=frozenset(
            i for i, s in enumerate(subjects) if lafp and words(s) == words(lafp.subject)
        ),
        caption=" ".join([caption, *meanings]),
    )
