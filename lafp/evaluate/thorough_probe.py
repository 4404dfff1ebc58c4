"""Probes a finished latent action model: all transitions, several probes, paired with controls."""

# Shape suffixes in this file: N transitions, D features.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lafp.evaluate.lam_probe import labeling, transitions_of_probe, untrained
from lafp.evaluate.mlp_probe import fit_mlp_probe
from lafp.evaluate.probes import (
    ProbeData,
    ProbeScore,
    accuracy,
    fit_probe,
    fit_standardized_probe,
    gain,
    r2_over_fit_size,
    score_probe,
)
from lafp.objectives.base import Objective
from lafp.types import Window

AT = "probe_r2_at_"
"""Prefix of the metric that holds R2 after a fit on so many transitions."""


@dataclass(frozen=True, kw_only=True)
class _Probed:
    """Features of both splits."""

    fit: tuple[Tensor, ProbeData]
    held_out: tuple[Tensor, ProbeData]
    is_discrete: bool = False
    """Whether the targets are one-hot rows of discrete actions."""

    def rows(self, method: str) -> tuple[list[dict[str, Any]], ProbeScore]:
        """Returns what the probes find, and the plain ridge's score."""
        features_ND, held_out = self.held_out
        ridge = fit_probe(*self.fit)
        score = score_probe(ridge, features_ND, held_out)
        num = score.num_transitions
        rows = [
            _r2_row(method, "probe_r2", score),
            _row(method, "probe_mse", score.mse, num),
        ]
        others: dict[str, Callable[[Tensor], Tensor]] = {
            "standardized": fit_standardized_probe(*self.fit),
            "mlp": fit_mlp_probe(*self.fit),
        }
        for name, probe in others.items():
            found = score_probe(probe, features_ND, held_out)
            rows.append(_r2_row(method, f"probe_r2_{name}", found))
        rows += [
            _row(method, f"{AT}{num_fit}", r2, num)
            for num_fit, r2 in r2_over_fit_size(ridge, *self.fit, *self.held_out).items()
        ]
        if self.is_discrete:
            right = accuracy(ridge, features_ND, held_out)
            rows.append(_row(method, "probe_accuracy", right, num))
        return [*rows, *self._on_backgrounds(method, ridge), *self._of_noise(method)], score

    def _on_backgrounds(
        self, method: str, ridge: Callable[[Tensor], Tensor]
    ) -> list[dict[str, Any]]:
        features_ND, held_out = self.held_out
        is_unseen_N = held_out.is_unseen
        assert is_unseen_N is not None
        if is_unseen_N.all() or not is_unseen_N.any():
            return []
        rows = []
        for name, is_one in (("seen", ~is_unseen_N), ("unseen", is_unseen_N)):
            found = score_probe(ridge, features_ND[is_one], held_out[is_one])
            rows.append(_r2_row(method, f"probe_r2_{name}", found))
        return rows

    def _of_noise(self, method: str) -> list[dict[str, Any]]:
        """R2 of the exploration noise alone, on the episodes that have any."""
        splits = []
        for features_ND, data in (self.fit, self.held_out):
            if data.noise is None:
                return []
            noisy = data.episode[(data.noise != 0).any(-1)].unique()
            is_noisy_N = torch.isin(data.episode, noisy)
            rows = data[is_noisy_N]
            assert rows.noise is not None
            noise = ProbeData(targets=rows.noise, episode=rows.episode)
            splits.append((features_ND[is_noisy_N], noise))
        (fit, fit_noise), (held_out, noise) = splits
        if len(fit_noise.episode.unique()) < 2 or not len(noise.episode):
            return []
        found = score_probe(fit_probe(fit, fit_noise), held_out, noise)
        return [_r2_row(method, "probe_r2_noise", found)]


@torch.no_grad()
def probe_thoroughly(
    objective: Objective, labeled_shards: str, supervised: frozenset[str], seed: int
) -> list[dict[str, Any]]:
    """Measures a finished LAM and its controls.

    Args:
        objective: The LAM, in eval mode.
        labeled_shards: URI of the labeled set.
        supervised: Ids of its clips whose actions supervised the LAM.
        seed: Of the untrained control's weights.

    Returns:
        Rows of ``method`` (``lam``, ``embedding``, ``random_lam`` or ``nothing``), ``metric``,
        ``value``, ``low``, ``high`` and ``n``. Undefined values are left out.
    """
    fit, held_out = transitions_of_probe(labeled_shards, supervised, None)
    device, stack = next(objective.parameters()).device, objective.obs.frame_stack
    random_lam = untrained(objective, seed).to(device)
    features: dict[str, Callable[[Window], Tensor]] = {
        "lam": labeling(objective),
        "embedding": lambda window: objective.embed(window.obs),
        "random_lam": labeling(random_lam),
    }
    rows: list[dict[str, Any]] = []
    scores: dict[str, ProbeScore] = {}
    for method, features_of in features.items():
        probed = _Probed(
            fit=fit.features(features_of, stack, device),
            held_out=held_out.features(features_of, stack, device),
            is_discrete=fit.action.is_discrete,
        )
        found, scores[method] = probed.rows(method)
        rows += found
    ours = scores["lam"]
    for method in ("embedding", "random_lam"):
        over = gain(ours, scores[method])
        metric = f"probe_gain_over_{method}"
        rows.append(_row("lam", metric, over.value, ours.num_transitions, over.low, over.high))
    num, variance = ours.num_transitions, ours.action_variance
    rows += [_row("nothing", "probe_r2", 0.0, num), _row("nothing", "probe_mse", variance, num)]
    return [row for row in rows if row["value"] == row["value"]]


def _r2_row(method: str, metric: str, score: ProbeScore) -> dict[str, Any]:
    return _row(method, metric, score.r2, score.num_transitions, score.r2_low, score.r2_high)


def _row(
    method: str,
    metric: str,
    value: float,
    n: int,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    return {
        "method": method,
        "metric": metric,
        "value": value,
        "n": n,
        "low": low,
        "high": high,
    }
