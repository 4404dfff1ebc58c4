"""Measurements -> rows of the result table."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lafp.evaluate.acting.latency import Latency
from lafp.evaluate.acting.modes import mode_coverage
from lafp.evaluate.probes.thorough_probe import MeasuredRow
from lafp.evaluate.rows.outcomes import Episode, return_scale
from lafp.evaluate.rows.results import RETURN_ABOVE_RANDOM, SUCCESS_ON, Result, Subject
from lafp.evaluate.rows.statistics import Interval, interval_of_mean

PROBE_CONTROLS = {"obs_embedding": "embedding", "random_lam": "random_lam"}
"""Names of the probe's controls in a LAM's metrics -> in result tables."""


def rollout_rows(
    subject: Subject,
    episodes: Sequence[Episode],
    demonstrations: Sequence[Episode],
    random: Sequence[Episode],
    mode_sizes: Sequence[int],
) -> list[Result]:
    """Makes the rows for one method's success (if the task knows it), return, length and modes.

    Args:
        subject: The method.
        episodes: Its episodes.
        demonstrations: The demonstrator's episodes with the same seeds.
        random: Those of random actions; empty where the return is no measure.
        mode_sizes: Number of ways at each fork of the task; empty for a task without forks.
    """
    names = {"success": "success", "return": "episode_return", "length": "length"}
    if any(episode.success is None for episode in episodes):
        del names["success"]
    # An environment may give NaN as a reward. Such episodes count for the other metrics only.
    finite = {
        metric: [v for episode in episodes if math.isfinite(v := float(getattr(episode, name)))]
        for metric, name in names.items()
    }
    if "success" in names:
        finite |= _successes_per_task(episodes)
    interval = {metric: interval_of_mean([values]) for metric, values in finite.items() if values}
    rows = [_with_interval(subject, metric, value) for metric, value in interval.items()]
    scale = return_scale(_returns(random), _returns(demonstrations))
    if "return" in interval and scale is not None:
        value = interval["return"]
        # The scale counts as known: the interval is that of the method's own episodes.
        mean, low, high = map(scale.normalized, (value.mean, value.low, value.high))
        rows.append(
            Result.of(subject, RETURN_ABOVE_RANDOM, mean, value.num_values, low=low, high=high)
        )
    if mode_sizes:
        coverage = mode_coverage(_modes(episodes), _modes(demonstrations), mode_sizes)
        for metric in ("side_entropy", "mode_coverage"):
            value = getattr(coverage, metric)
            rows.append(Result.of(subject, metric, value, coverage.num_decided))
    return rows


def _successes_per_task(episodes: Sequence[Episode]) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        if episode.episode_task is not None:
            found[f"{SUCCESS_ON}{episode.episode_task}"].append(float(bool(episode.success)))
    return found


def action_error_rows(subject: Subject, errors: Mapping[str, float]) -> list[Result]:
    """Makes the rows of the errors that ``open_loop_errors`` or ``measure_alignment`` measured."""
    return [
        Result.of(subject, metric, value, int(errors["num_transitions"]))
        for metric, value in errors.items()
        if metric != "num_transitions"
    ]


def latency_rows(subject: Subject, batch_size: int, latency: Latency) -> list[Result]:
    """Makes the rows for one method's time per action at one batch size."""
    metric, num = f"latency_b{batch_size}", latency.num_rounds
    rows = [
        Result.of(subject, f"{metric}_ms", latency.median_ms, num),
        Result.of(subject, f"{metric}_disturbance", latency.disturbance, num),
    ]
    if latency.ratio is not None:
        rows.append(Result.of(subject, f"{metric}_ratio", latency.ratio, num))
    return rows


def probe_rows(lam: Subject, metrics: Mapping[str, float]) -> list[Result]:
    """Makes the rows of the last linear probe and its controls, from metrics stored with a LAM.

    They stand in for ``thorough_probe_rows`` where the labeled clips are not at hand. Empty for a
    LAM that was trained without them.
    """
    if "probe/r2" not in metrics:
        return []
    num = int(metrics["probe/n"])
    low, high = metrics["probe/r2_low"], metrics["probe/r2_high"]
    nothing, variance = _probe(lam, "nothing"), metrics["probe/action_variance"]
    rows = [
        Result.of(lam, "probe_r2", metrics["probe/r2"], num, low=low, high=high),
        Result.of(lam, "probe_mse", metrics["probe/mse"], num),
        Result.of(nothing, "probe_r2", 0.0, num),
        Result.of(nothing, "probe_mse", variance, num),
    ]
    for name, method in PROBE_CONTROLS.items():
        if (r2 := metrics.get(f"probe/r2_{name}")) is not None:
            control = _probe(lam, method)
            rows.append(Result.of(control, "probe_r2", r2, num))
            # On the same transitions, so that R^2 = 1 - MSE / variance.
            rows.append(Result.of(control, "probe_mse", (1 - r2) * variance, num))
            metric = f"probe_gain_over_{method}"
            value, *ends = (
                metrics.get(f"probe/gain_over_{name}{end}") for end in ("", "_low", "_high")
            )
            if value is not None:
                rows.append(Result.of(lam, metric, value, num, low=ends[0], high=ends[1]))
    return rows


def thorough_probe_rows(lam: Subject, measured: Sequence[MeasuredRow]) -> list[Result]:
    """Rows of what ``probe_thoroughly`` measured."""
    return [
        Result.of(
            lam if row["method"] == lam.method else _probe(lam, row["method"]),
            row["metric"],
            row["value"],
            row["n"],
            low=row.get("low"),
            high=row.get("high"),
        )
        for row in measured
    ]


def _with_interval(subject: Subject, metric: str, value: Interval) -> Result:
    return Result.of(subject, metric, value.mean, value.num_values, low=value.low, high=value.high)


def _returns(episodes: Sequence[Episode]) -> list[float]:
    return [episode.episode_return for episode in episodes]


def _modes(episodes: Sequence[Episode]) -> np.ndarray:
    return np.array([episode.modes for episode in episodes])


def _probe(lam: Subject, method: str) -> Subject:
    return replace(lam, label=method, method=method)
