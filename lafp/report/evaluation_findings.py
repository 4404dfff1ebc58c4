"""What an evaluation found, in sentences: each method beside the baseline, z beside its control."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lafp.evaluate.results import BEHAVIOR_CLONING, DEMONSTRATOR, Result, outcome_metric
from lafp.evaluate.statistics import bootstrap_interval
from lafp.report.sections.outcome import OUTCOMES
from lafp.report.sections.result import better_cloning, headline, is_lafp, name_of, of_metric
from lafp.runs.wording import counted

# Another pair's latent action must do this much harm, or the forward model ignores z.
_MIN_HARM = 1.1


def evaluation_findings(
    rows: Sequence[Result], outcomes: Mapping[str, np.ndarray], views: Mapping[str, Any]
) -> list[str]:
    """Sentences for the end of the job.

    Args:
        rows: The result table.
        outcomes: Label -> outcome of every episode, the same episodes for every label.
        views: The numbers of ``write_latent_views``.
    """
    return [*_rollouts(rows, outcomes), *view_findings(views)]


def view_findings(views: Mapping[str, Any]) -> list[str]:
    """Whether the forward model needs the right latent action, and how wide z is spread."""
    if views["is_collapsed"]:
        return ["Bad: the latent actions are constant: every frame pair has the same."]
    of = (
        f"{counted(views['num_pairs'], 'frame pair')} of "
        f"{'held-out' if views['split'] == 'val' else 'training'} clips"
    )
    lines = [
        f"The latent actions of {of} spread over {views['effective_rank']:.1f} effective "
        f"dimensions of {views['latent_action_dim']}."
    ]
    error, wrong = views["prediction_error"], views["wrong_latent_error"]
    if error is None or wrong is None or error <= 0:
        return lines
    text = (
        f"with the latent action of another pair the error of the predicted frame is "
        f"{wrong / error:.2f} times as large"
    )
    if wrong > _MIN_HARM * error:
        return [*lines, f"Good: {text}, so the prediction uses z."]
    return [*lines, f"Bad: {text}, so the prediction hardly uses z."]


def _rollouts(rows: Sequence[Result], outcomes: Mapping[str, np.ndarray]) -> list[str]:
    metric = outcome_metric(rows)
    outcome, found = OUTCOMES[metric], of_metric(rows, metric)
    if not found:
        return []
    lines = [f"{outcome.title} over {counted(found[0].n, 'episode')}, with 95 % intervals:"]
    for row in sorted(found, key=lambda row: -row.value):
        noise = f", {row.noise} noise" if row.noise else ""
        lines.append(f"  {outcome.written(row.interval)}  {name_of(row)}{noise}")
    expert = next((r for r in rows if r.method == DEMONSTRATOR and r.metric == metric), None)
    if expert is not None:
        lines.append(f"  {outcome.written(expert.interval)}  the demonstrators")
    if text := headline(rows, outcomes):
        lines.append(text)
    return [*lines, *_against_baseline(found, outcomes)]


def _against_baseline(found: Sequence[Result], outcomes: Mapping[str, np.ndarray]) -> list[str]:
    """The method with interpolation, else the best one, against cloning without it."""
    baseline = next((row for row in found if row.method == BEHAVIOR_CLONING), None)
    baseline = baseline or better_cloning(found)
    others = [row for row in found if baseline is not None and row.label != baseline.label]
    if baseline is None or not others:
        return ["Not measured: a baseline (`train_bc`, or a cloning policy) to set this against."]
    method = next(filter(is_lafp, others), None) or max(others, key=lambda row: row.value)
    if method.label not in outcomes or baseline.label not in outcomes:
        return []
    gain = bootstrap_interval([outcomes[method.label] - outcomes[baseline.label]])
    verdict, meaning = "Uncertain", "these episodes do not tell the two apart"
    if gain.low > 0:
        verdict, meaning = "Good", "it does better than the baseline"
    elif gain.high < 0:
        verdict, meaning = "Bad", "it does worse than the baseline"
    difference = OUTCOMES[method.metric].difference(gain)
    return [
        f"{verdict}: {name_of(method)} against {name_of(baseline)}, on the same episodes: "
        f"{difference}; {meaning}."
    ]
