"""Probes a finished latent action model: all transitions, several probes, paired with controls."""

# Shape suffixes in this file: N transitions, D features.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from lafp.evaluate.latents.representations import EMBEDDING, LAM, RANDOM_LAM, representation
from lafp.evaluate.probes.lam_probe import LabeledTransitions, transitions_of_probe
from lafp.evaluate.probes.linear import (
    ProbeData,
    ProbeScore,
    accuracy,
    gain_of_sums,
    r2_over_fit_size,
    ridge_of,
    score_predictions,
    score_probe,
)
from lafp.evaluate.probes.mlp_probe import fit_mlp_probe
from lafp.evaluate.probes.ridge import MAX_MEMORY_BYTES
from lafp.lam import Lam
from lafp.storage.temporary import TemporaryFolder
from lafp.types import Window


class MeasuredRow(TypedDict):
    """One value of one method, as tasks return it and the stage's folder keeps it."""

    method: str
    metric: str
    value: float
    n: int
    """Number of transitions that it was measured on."""
    low: NotRequired[float | None]
    """Ends of the interval, if there is one. JSON leaves out those that are not finite."""
    high: NotRequired[float | None]


AT = "probe_r2_at_"
"""Prefix of the metric that holds R2 after a fit on so many transitions."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """Features of both splits."""

    fit: tuple[Tensor, ProbeData]
    held_out: tuple[Tensor, ProbeData]
    is_discrete: bool = False
    """Whether the targets are one-hot rows of discrete actions."""
    max_memory_bytes: int = MAX_MEMORY_BYTES
    """See ``Ridge``."""

    def rows(self, method: str) -> tuple[list[MeasuredRow], ProbeScore]:
        """Returns what the probes find, and the plain ridge's score."""
        features_ND, held_out = self.held_out
        equations = ridge_of(*self.fit, max_memory_bytes=self.max_memory_bytes)
        ridge, standardized = equations.fit(), equations.fit(equations.std())
        del equations  # its matrices are large, and others are made below
        predicted_NY = ridge(features_ND)
        score = score_predictions(predicted_NY, held_out)
        num = score.num_transitions
        rows = [
            _r2_row(method, "probe_r2", score),
            measured_row(method, "probe_mse", score.mse, num),
        ]
        others: dict[str, Callable[[Tensor], Tensor]] = {
            "standardized": standardized,
            "mlp": fit_mlp_probe(*self.fit),
        }
        for name, probe in others.items():
            found = score_probe(probe, features_ND, held_out)
            rows.append(_r2_row(method, f"probe_r2_{name}", found))
        over_size = r2_over_fit_size(*self.fit, *self.held_out, self.max_memory_bytes)
        rows += [
            measured_row(method, f"{AT}{num_fit}", r2, num)
            for num_fit, r2 in (over_size | {ridge.num_fit: score.r2}).items()
        ]
        if self.is_discrete:
            right = accuracy(predicted_NY, held_out)
            rows.append(measured_row(method, "probe_accuracy", right, num))
        rows += _on_backgrounds(method, predicted_NY, held_out)
        return [*rows, *self._of_noise(method)], score

    def _of_noise(self, method: str) -> list[MeasuredRow]:
        """Measures R2 of the exploration noise alone, on the episodes that have any."""
        noisy_rows = []
        for _, data in (self.fit, self.held_out):
            if data.noise is None:
                return []
            noisy = data.episode[(data.noise != 0).any(-1)].unique()
            noisy_rows.append(torch.isin(data.episode, noisy).nonzero().flatten().cpu())
        rows, held_out_rows = noisy_rows
        noises = [
            ProbeData(targets=data.noise, episode=data.episode)
            for _, data in (self.fit, self.held_out)
            if data.noise is not None
        ]
        if len(noises[0].episode.cpu()[rows].unique()) < 2 or not len(held_out_rows):
            return []
        probe = ridge_of(self.fit[0], noises[0], rows, self.max_memory_bytes).fit()
        predicted_NY = probe(self.held_out[0])[held_out_rows]
        found = score_predictions(predicted_NY, noises[1][held_out_rows])
        return [_r2_row(method, "probe_r2_noise", found)]


def _on_backgrounds(method: str, predicted_NY: Tensor, held_out: ProbeData) -> list[MeasuredRow]:
    """Measures R2 on episodes whose background training has seen, and on the others."""
    is_unseen_N = held_out.is_unseen
    assert is_unseen_N is not None
    if is_unseen_N.all() or not is_unseen_N.any():
        return []
    rows = []
    for name, is_one in (("seen", ~is_unseen_N), ("unseen", is_unseen_N)):
        found = score_predictions(predicted_NY[is_one], held_out[is_one])
        rows.append(_r2_row(method, f"probe_r2_{name}", found))
    return rows


def probe_thoroughly(
    lam: Lam, labeled_shards: str, supervised: frozenset[str], seed: int
) -> list[MeasuredRow]:
    """Measures a finished LAM and its controls.

    Args:
        lam: The latent action model.
        labeled_shards: URI of the labeled set.
        supervised: Ids of its clips whose actions supervised the LAM.
        seed: Of the untrained control's weights.

    Returns:
        Rows of ``method`` (``lam``, ``embedding``, ``random_lam`` or ``nothing``), ``metric``,
        ``value``, ``low``, ``high`` and ``n``. Undefined values are left out.
    """
    splits = transitions_of_probe(labeled_shards, supervised, None)
    rows: list[MeasuredRow] = []
    sums: dict[str, Tensor] = {}
    for method in (LAM, EMBEDDING, RANDOM_LAM):
        features_of = representation(method, lam, None, seed).of_window
        found, score = probe_features(method, features_of, splits, lam.obs.frame_stack, lam.device)
        sums[method] = score.sums
        rows += found
    return defined_rows([*rows, *control_rows(LAM, sums, rows)])


@torch.no_grad()
def probe_features(
    method: str,
    features_of: Callable[[Window], Tensor],
    splits: tuple[LabeledTransitions, LabeledTransitions],
    frame_stack: int,
    device: torch.device,
    max_memory_bytes: int = MAX_MEMORY_BYTES,
) -> tuple[list[MeasuredRow], ProbeScore]:
    """Probes one kind of features. They lie in files of a temporary folder meanwhile.

    Args:
        method: Name of the features, for the rows.
        features_of: Maps windows to features.
        splits: The transitions to fit on, and those held out.
        frame_stack: Frames of an observation.
        device: Computes features and probes.
        max_memory_bytes: Limit of the matrices of a fit. See ``Ridge``.

    Returns:
        Rows as ``probe_thoroughly`` returns them, and the score of the plain ridge.
    """
    with TemporaryFolder() as folder:
        fit, held_out = (
            transitions.features(features_of, frame_stack, device, Path(folder, name))
            for transitions, name in zip(splits, ("fit", "held_out"), strict=True)
        )
        probed = Probed(
            fit=fit,
            held_out=held_out,
            is_discrete=splits[0].action.is_discrete,
            max_memory_bytes=max_memory_bytes,
        )
        return probed.rows(method)


def control_rows(
    ours: str, sums: Mapping[str, Tensor], rows: Sequence[MeasuredRow]
) -> list[MeasuredRow]:
    """Returns the gains of one method over all others, and what knowing nothing gets.

    Args:
        ours: The method.
        sums: ``ProbeScore.sums`` of each method, on the same held-out episodes.
        rows: Their rows.
    """
    num = next(row["n"] for row in rows if row["metric"] == "probe_r2")
    found = []
    for method in sums:
        if method == ours:
            continue
        over = gain_of_sums(sums[ours], sums[method])
        metric = f"probe_gain_over_{method}"
        found.append(measured_row(ours, metric, over.value, num, over.low, over.high))
    variance = float(sums[ours][1].sum()) / num
    found += [
        measured_row("nothing", "probe_r2", 0.0, num),
        measured_row("nothing", "probe_mse", variance, num),
    ]
    return found


def defined_rows(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Leaves out the rows whose value is undefined."""
    return [row for row in rows if row["value"] == row["value"]]


def _r2_row(method: str, metric: str, score: ProbeScore) -> MeasuredRow:
    return measured_row(
        method, metric, score.r2, score.num_transitions, score.r2_low, score.r2_high
    )


def measured_row(
    method: str,
    metric: str,
    value: float,
    n: int,
    low: float | None = None,
    high: float | None = None,
) -> MeasuredRow:
    """Makes a row of a value of ``n`` transitions, with its interval if there is one."""
    return {
        "method": method,
        "metric": metric,
        "value": value,
        "n": n,
        "low": low,
        "high": high,
    }
