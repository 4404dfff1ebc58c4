"""Compares methods over several tasks: interquartile mean and probability of improvement."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import DEMONSTRATOR
from lafp.evaluate.rows.statistics import interquartile_mean, probability_of_improvement
from lafp.report.blocks import NO_VALUE, Section, Table
from lafp.report.methods import named
from lafp.report.metrics import OUTCOMES


@dataclass(frozen=True, kw_only=True)
class _Method:
    """A way to act that has one score per task and seed."""

    variant: str
    """Its variant without the task; empty if the study varies nothing else."""
    label: str
    label_fraction: float | None
    """Share of the labels, if the study varies it."""


def section(results: Results) -> Section | None:
    """Shows one row per variant, method and share of labels that was rolled out on all tasks.

    None if fewer than two were: also where no axis of the study is that of the tasks.
    """
    outcome, methods = OUTCOMES[results.outcome], _by_task(results)
    tasks = sorted({task for found in methods.values() for task in found})
    complete = {method: found for method, found in methods.items() if len(found) == len(tasks)}
    if len(tasks) < 2 or len(complete) < 2 or not outcome.is_share:
        return None
    scores = {method: [found[t].per_seed for t in tasks] for method, found in complete.items()}
    first = next(iter(complete))
    names = {m: _name(m, complete[m][tasks[0]]) for m in complete}
    num_labels = _num_labels(results, complete)
    rows = []
    for method in sorted(complete, key=lambda method: method.label_fraction or 0):
        # With as many labels as the method itself: more labels are no merit of a method.
        other = replace(first, label_fraction=method.label_fraction)
        better = "" if method == other else NO_VALUE
        if method != other and other in scores:
            better = probability_of_improvement(scores[method], scores[other]).in_percent()
        num = [num_labels[method]] if num_labels else []
        mean = outcome.written(interquartile_mean(scores[method]))
        rows.append([names[method], *num, mean, better])
    has_one_run = max(len(runs) for of_tasks in scores.values() for runs in of_tasks) == 1
    intervals = (
        "No intervals: each task has one run."
        if has_one_run
        else "Intervals: 95 %, bootstrap over the runs of each task (Agarwal et al., 2021)."
    )
    with_labels = " and the same share of the labels" if results.label_fractions else ""
    table = Table(
        head=[
            "Method",
            *(["Labeled transitions"] if num_labels else []),
            f"{outcome.title}, interquartile mean",
            f"Better than {names[first]}",
        ],
        rows=rows,
        caption=f"Over {', '.join(tasks)}. Interquartile mean: of the middle half of all runs. "
        "Better: the probability that a run beats one of the other method on a random task"
        f"{with_labels}, where a tie counts half. {intervals}",
    )
    return Section(id="over_tasks", short="Over tasks", title="Over all tasks", blocks=[table])


def _by_task(results: Results) -> dict[_Method, dict[str, Group]]:
    """Maps methods to task to outcome."""
    of_variant = {row.variant: row.task for row in results.rows if row.task is not None}
    axis = _axis_of_tasks(results, of_variant)
    found: defaultdict[_Method, dict[str, Group]] = defaultdict(dict)
    for group in results.of_metric(results.outcome):
        subject = group.subject
        if subject.method == DEMONSTRATOR or subject.task is None:
            continue
        values = results.values_of(subject.variant)
        method = _Method(
            variant="-".join(value for n, value in enumerate(values) if n != axis),
            label=subject.label,
            label_fraction=subject.label_fraction if results.label_fractions else None,
        )
        found[method][subject.task] = group
    return dict(found)


def _axis_of_tasks(results: Results, of_variant: Mapping[str | None, str]) -> int | None:
    """Finds the axis whose values are the tasks, by which variants are told apart from tasks."""
    num_axes = {len(results.values_of(variant)) for variant in of_variant}
    for axis in range(min(num_axes, default=0)):
        pairs = {(results.values_of(v)[axis], task) for v, task in of_variant.items()}
        values, tasks = ({pair[n] for pair in pairs} for n in (0, 1))
        if len(pairs) == len(values) == len(tasks):
            return axis
    return None


def _name(method: _Method, group: Group) -> str:
    measured = named(group.subject)
    return f"{method.variant}: {measured}" if method.variant else measured


def _num_labels(
    results: Results, methods: Mapping[_Method, Mapping[str, Group]]
) -> dict[_Method, str]:
    """Writes how many labels each method saw; empty where all saw equally many."""
    if results.label_fractions:
        return {
            m: results.labels_in_words(m.label_fraction or 0).replace(" labeled transitions", "")
            for m in methods
        }
    found = {method: [g.labeled_transitions for g in of.values()] for method, of in methods.items()}
    if len({tuple(nums) for nums in found.values()}) < 2:
        return {}
    return {method: _in_words([n for n in nums if n is not None]) for method, nums in found.items()}


def _in_words(nums: Sequence[int]) -> str:
    """Writes the numbers of labels of all tasks: one number, or the range."""
    return " to ".join(f"{num:,}" for num in sorted({min(nums), max(nums)})) if nums else NO_VALUE
