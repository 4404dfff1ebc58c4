"""Compares methods over several tasks: interquartile mean and probability of improvement."""

from collections import defaultdict

from lafp.evaluate.rows.grouped import Group, Results
from lafp.evaluate.rows.results import DEMONSTRATOR
from lafp.evaluate.rows.statistics import interquartile_mean, probability_of_improvement
from lafp.report.blocks import Section, Table
from lafp.report.methods import named
from lafp.report.metrics import OUTCOMES


def section(results: Results) -> Section | None:
    """Shows one row per method rolled out on all tasks. Returns None if fewer than two were.

    None too if a task has several variants of a method, because then no one of them is the method.
    """
    outcome = OUTCOMES[results.outcome]
    methods: defaultdict[str, dict[str, Group]] = defaultdict(dict)
    for group in results.of_metric(results.outcome):
        subject = group.subject
        if subject.method == DEMONSTRATOR or subject.task is None:
            continue
        if subject.task in methods[subject.label]:
            return None
        methods[subject.label][subject.task] = group
    tasks = sorted({task for of_method in methods.values() for task in of_method})
    complete = {label: found for label, found in methods.items() if len(found) == len(tasks)}
    if len(tasks) < 2 or len(complete) < 2 or not outcome.is_share:
        return None
    scores = {label: [g[task].per_seed for task in tasks] for label, g in complete.items()}
    first = next(iter(scores))
    rows = []
    for label, found in complete.items():
        better = probability_of_improvement(scores[label], scores[first])
        rows.append(
            [
                named(found[tasks[0]].subject),
                outcome.written(interquartile_mean(scores[label])),
                "" if label == first else better.in_percent(),
            ]
        )
    name = named(complete[first][tasks[0]].subject)
    has_one_run = max(len(runs) for of_tasks in scores.values() for runs in of_tasks) == 1
    intervals = (
        "No intervals: each task has one run."
        if has_one_run
        else "Intervals: 95 %, bootstrap over the runs of each task (Agarwal et al., 2021)."
    )
    table = Table(
        head=["Method", f"{outcome.title}, interquartile mean", f"Better than {name}"],
        rows=rows,
        caption=f"Over {', '.join(tasks)}. Interquartile mean: of the middle half of all runs. "
        "Better: the probability that a run beats one of the other method on a random task, where "
        f"a tie counts half. {intervals}",
    )
    return Section(id="over_tasks", short="Over tasks", title="Over all tasks", blocks=[table])
