"""Puts the last metrics of a training stage into sentences: each number beside its control.

A sentence uses metrics that were measured and are finite. A metric that was not measured is said to
be missing, or left out; it is never shown as 0.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from lafp.evaluate.rows import result_rows
from lafp.objectives.base import COLLAPSED_SPREAD
from lafp.objectives.health import (
    CONSTANT,
    DEAD_CODEBOOK,
    DEAD_PERPLEXITY,
    MIN_JUDGED_EPISODES,
    not_above_embedding,
    supervision_sign,
    target_sign,
)
from lafp.runs.wording import counted, number

Metrics = Mapping[str, Any]

PROBE_CONTROLS = {
    "embedding": "from the observation alone",
    "random_lam": "from an untrained model's latent actions",
    "pixel_difference": "from the difference of the pixels",
    "dinov2_difference": "from the difference of frozen DINOv2 features",
    "encoder_frame": "from the features of the first frame alone",
}
"""Controls of the probe as result tables call them -> in words."""

LABELS_ALONE = (
    "Trained on labels alone (fdm_weight is 0): the control of the same model with videos. Its "
    "prediction of frames is not trained, so it is not shown."
)
_ALL_ALIKE = (
    "Not measured: whether z holds the true actions. On the labeled episodes that are held out all "
    "actions are alike."
)
_FEWEST_REPORTS = 4
_LARGEST_CENTRE_OFFSET = 3.0
"""The middle of a range is farther from the mean only with outliers, or if data are very skewed."""


def lam_findings(metrics: Metrics, objective: str, has_labels: bool) -> list[str]:
    """Says what a latent action model learned.

    Args:
        metrics: Last value of each metric, and what ``data_remarks`` says of the data.
        objective: Name of the model's objective.
        has_labels: Whether it was given labeled clips.
    """
    lines = _prediction(metrics, "frame's embedding" if objective == "laom" else "frame")
    lines += _collapse(metrics)
    lines += [f"Bad: {sign}" for sign in lam_signs(metrics)]
    if _value(metrics, "probe/r2") is not None:
        found = _probe(metrics)
        little_motion = "" if found.startswith("Good:") else metrics.get("little_motion", "")
        return [*lines, f"{found} {little_motion}".strip()]
    if has_labels:
        return [*lines, metrics.get("no_probe") or _ALL_ALIKE]
    return [
        *lines,
        "Not measured: whether z holds true actions. There are no labels; the report's predicted "
        "frames and nearest neighbours show what z means.",
    ]


def lam_signs(metrics: Metrics) -> list[str]:
    """Says that a target embedding is bad or not predicted, or the supervision's weight is wrong.

    Args:
        metrics: The last value of each, and what ``over_training`` says.
    """
    spread, dead_share, explained = (
        _first(metrics, f"val/target_{name}", f"target_{name}")
        for name in ("spread", "dead_share", "explained")
    )
    share = _value(metrics, "supervision_share")
    remaining = _value(metrics, "remaining_error_share")
    target = target_sign(spread, dead_share, explained)
    signs = [target, supervision_sign(share, remaining) if share else None]
    return [sign for sign in signs if sign]


def over_training(records: Sequence[Metrics]) -> dict[str, float]:
    """Returns the supervision's median share of the loss, and its last error over its first.

    The median, because the share is small at the end, when few labels are learned by heart. The
    error needs a few reports before it says whether labels are learned.

    Args:
        records: Those of ``metrics.jsonl``.
    """
    shares, errors = (
        [value for record in records if (value := _value(record, name)) is not None]
        for name in ("supervision_share", "supervision_loss")
    )
    found = {"supervision_share": median(shares)} if shares else {}
    if len(errors) >= _FEWEST_REPORTS and errors[0] > 0:
        found["remaining_error_share"] = errors[-1] / errors[0]
    return found


def policy_findings(metrics: Metrics, is_flow: bool) -> list[str]:
    """Says how well a policy predicts the latent actions of held-out clips.

    Args:
        metrics: Last value of each metric.
        is_flow: Whether the policy samples. Cloning predicts the mean.
    """
    error = _value(metrics, "val/latent_mse")
    if error is None:
        return ["Not measured: its error. There are no held-out clips that are long enough."]
    text = (
        f"on held-out clips its latent actions are off by {error:.2f} of their variance (mean "
        "squared error)"
    )
    offset = _value(metrics, "centre_offset") or 0.0
    outliers = []
    if offset > _LARGEST_CENTRE_OFFSET:
        outliers = [
            f"Bad: in some dimension the middle of the latent actions' range lies {offset:.1f} "
            "standard deviations from their mean, so a few outliers decide what counts as the "
            "centre. Train with policy.standardizer.name=std."
        ]
    if is_flow:
        verdict = _judged(error < 2, error < 1.9)
        return [
            *outliers,
            f"{verdict} {text}. Drawing latent actions without looking at the frame gives 2.00, "
            "always taking their mean 1.00; a flow policy that keeps several ways of acting "
            "lies above a cloning policy and may lie above 1.00.",
        ]
    verdict = _judged(error < 1, error < 0.95)
    return [*outliers, f"{verdict} {text}. Always taking their mean gives 1.00."]


def action_findings(metrics: Metrics) -> list[str]:
    """Says how near actions are to the demonstrated ones, on held-out labeled episodes."""
    if (accuracy := _value(metrics, "val/action_accuracy_deployed")) is not None:
        anchored = _value(metrics, "val/action_accuracy_anchored")
        beside = "" if anchored is None else f" ({_percent(anchored)} on the latents of training)"
        return [
            f"On held-out episodes {_percent(accuracy)} of its actions are the demonstrated "
            f"ones{beside}. Always taking the most frequent action was not measured beside it."
        ]
    r2 = _value(metrics, "val/action_r2_deployed")
    if r2 is None:
        return ["Not measured: its action error. There are no held-out labeled episodes."]
    text = (
        f"on held-out episodes its actions explain {r2:.2f} of the variance of the demonstrated "
        "ones (R²). Always taking the mean action gives 0.00"
    )
    anchored = _value(metrics, "val/action_r2_anchored")
    if anchored is not None:
        text += (
            f"; decoding the latent actions that it was trained on gives {anchored:.2f}. Where "
            "the policy rightly goes another way than the demonstrator, the first number pays "
            "for it"
        )
    return [f"{_judged(r2 > 0, r2 > 0.05)} {text}."]


def incident_findings(metrics: Metrics) -> list[str]:
    """Says how many labels there were, and lists resumed starts, skipped steps, damaged clips."""
    lines = [labels] if (labels := metrics.get("labels")) else []
    if steps := metrics.get("resumed_from_steps"):
        lines.append(
            f"It was resumed {counted(len(steps), 'time')}, the last time from step {steps[-1]:,}."
        )
    if skipped := _value(metrics, "skipped_steps"):
        lines.append(
            f"{counted(int(skipped), 'step')} skipped, as loss or gradients were not finite: "
            "skipped_steps.jsonl lists them."
        )
    if damaged := _value(metrics, "damaged_clips"):
        lines.append(
            f"{counted(int(damaged), 'visit')} to clips that could not be read; others stood in "
            "for them: damaged_clips.jsonl lists them."
        )
    return lines


def not_predicting(metrics: Metrics, what: str = "frame") -> list[str]:
    """Says that the FDM predicts no better than assuming no change; nothing if it does better."""
    share, clips = _explained(metrics)
    if share is None or share > 0:
        return []
    return [
        f"on {clips} the next {what} is predicted no better than by assuming no change. Train "
        "longer, or look at the loss curve first."
    ]


def _explained(metrics: Metrics) -> tuple[float | None, str]:
    held_out, training = (_value(metrics, name) for name in ("val/fdm_explained", "fdm_explained"))
    if held_out is None:
        return training, "training clips (none is held out)"
    return held_out, "held-out clips"


def _prediction(metrics: Metrics, what: str) -> list[str]:
    share, clips = _explained(metrics)
    if share is None:
        return []
    if bad := not_predicting(metrics, what):
        return [f"Bad: {text}" for text in bad]
    control = "assuming no change"
    return [
        f"{_judged(True, share > 0.05)} on {clips} the next {what} is predicted with "
        f"{_percent(share)} less squared error than by {control}."
    ]


def _collapse(metrics: Metrics) -> list[str]:
    """Names signs that latent actions hold nothing. Held-out clips count before training ones."""
    spread = _first(metrics, "val/latent/spread", "latent/spread")
    perplexity = _first(metrics, "val/codebook/perplexity", "codebook/perplexity")
    if spread is not None and spread < COLLAPSED_SPREAD:
        return [" ".join(["Bad:", CONSTANT, *filter(None, [metrics.get("little_motion")])])]
    if perplexity is not None and perplexity < DEAD_PERPLEXITY:
        return [f"Bad: {DEAD_CODEBOOK}"]
    return []


def _probe(metrics: Metrics) -> str:
    r2, num = _value(metrics, "probe/r2"), _value(metrics, "probe/num_episodes")
    assert r2 is not None
    controls = {
        method: value
        for name, method in result_rows.PROBE_CONTROLS.items()
        if (value := _value(metrics, f"probe/r2_{name}")) is not None
    }
    low, high = _value(metrics, "probe/r2_low"), _value(metrics, "probe/r2_high")
    gains = [_value(metrics, f"probe/gain_over_{name}_low") for name in result_rows.PROBE_CONTROLS]
    known = [gain for gain in gains if gain is not None]
    return probe_finding(r2, low, high, controls, num, gain_low=min(known, default=None))


def probe_finding(
    r2: float,
    low: float | None,
    high: float | None,
    controls: Mapping[str, float],
    num_episodes: float | None = None,
    gain_low: float | None = None,
    what: str = "z",
) -> str:
    """Says what the linear probe finds in z, judged by the best of its controls.

    Args:
        r2: R² of the probe on z.
        low: Lower end of its interval.
        high: Upper end of its interval.
        controls: Name in ``PROBE_CONTROLS`` -> R² of that control.
        num_episodes: Held-out episodes behind it.
        gain_low: Smallest lower end of the intervals of its gains over the controls, which are
            sharper than two intervals side by side; None where they were not measured.
        what: Names the features that were probed.
    """
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    on = "" if num_episodes is None else f" of {counted(int(num_episodes), 'held-out episode')}"
    against = [f"{value:.2f} {PROBE_CONTROLS[name]}" for name, value in controls.items()]
    text = (
        f"a linear probe reads the true actions{on} from {what} with R² {r2:.2f}{interval}, "
        f"against {', '.join([*against, '0.00 from nothing'])}."
    )
    if num_episodes is not None and num_episodes < MIN_JUDGED_EPISODES:
        return (
            f"Uncertain: {text} So few held-out episodes do not tell what {what} is worth: "
            f"hold out at least {MIN_JUDGED_EPISODES}."
        )
    best = max([0.0, *controls.values()])
    is_above = low is not None and low > best
    if gain_low is not None and low is not None:
        is_above = gain_low > 0 and low > 0
    if is_above:
        return f"Good: {text} So {what} holds more about the actions than any control."
    if r2 > best:
        return (
            f"Uncertain: {text} That is above the controls, but by less than its interval; more "
            "held-out episodes would tell."
        )
    if max(r2, best) <= 0:
        return (
            f"Bad: {text} What is fitted on the training episodes does not carry over to the "
            "held-out ones: they are too few, or their scenes and cameras differ too much. More "
            "labeled episodes help."
        )
    if "embedding" in controls and r2 <= controls["embedding"]:
        return f"Bad: {text} {not_above_embedding(r2, controls['embedding'])}"
    return f"Bad: {text} So {what} holds no more about the actions than the controls."


def _judged(is_better: bool, is_clearly_better: bool) -> str:
    if is_better:
        return "Good:" if is_clearly_better else "Uncertain:"
    return "Bad:"


def _first(metrics: Metrics, *names: str) -> float | None:
    return next((value for name in names if (value := _value(metrics, name)) is not None), None)


def _value(metrics: Metrics, name: str) -> float | None:
    """Returns a metric that was measured; None if it is absent, null or not finite."""
    value = metrics.get(name)
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _percent(share: float) -> str:
    return f"{number(100 * share)} %" if abs(share) < 0.095 else f"{100 * share:.0f} %"
