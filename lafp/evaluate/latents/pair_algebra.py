"""Measures whether latent actions add up, turn round, and describe a change, not a frame.

Take three observations a, b, c of one clip, equally far apart. Actions that are displacements have
z(a, c) = z(a, b) + z(b, c) and z(b, a) = -z(a, b), but for a constant. A latent that only describes
the second frame has neither.
"""

# Shape suffixes in this file: N triples, Z latent action, E episodes.

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.evaluate.probes.linear import ProbeData, ProbeScore, score_predictions
from lafp.evaluate.rows.statistics import Interval, interval_of_mean

PairFeatures = Callable[[Tensor, Tensor], Tensor]
"""Maps two observations, float [N, 3 F, H, W] each, to float [N, Z]."""
Triples = Iterable[tuple[tuple[Tensor, Tensor, Tensor], Tensor]]
"""Batches of the observations a, b and c, and of the episodes, int64 [N]."""


@dataclass(frozen=True, kw_only=True)
class PairAlgebra:
    """Measurements of one kind of latents. All intervals resample episodes."""

    additivity_error: Interval
    """Squared error of z(a, b) + z(b, c), as a prediction of z(a, c), over the variance of
    z(a, c). 0: latents add up. 1: the sum is no better than the mean of z(a, c)."""
    reversal_error: Interval
    """Squared error of -z(a, b), as a prediction of z(b, a), over the variance of z(b, a)."""
    s_pcfc: Interval
    """Mean cosine of z(a, b) and z(c, b). CoMo (arXiv:2505.17006) compares latents from the past
    and from the future to the present frame: -1 where a steady motion is told, 1 where z describes
    the present frame, or where all latents share a constant that is larger than they differ."""
    s_pcfc_centered: Interval
    """``s_pcfc`` of latents without their means, so that no shared constant counts."""


@torch.no_grad()
def measure_pair_algebra(latent_of: PairFeatures, triples: Triples) -> PairAlgebra | None:
    """Measures latents on triples of observations; None if there are no triples.

    A constant that all latents share is removed from sums and reversals, because a forward model
    can take it for any action.
    """
    latents: list[list[Tensor]] = []
    episode: list[Tensor] = []
    for (a, b, c), episode_N in triples:
        pairs = ((a, c), (a, b), (b, c), (b, a), (c, b))
        latents.append([latent_of(*pair).float().cpu() for pair in pairs])
        episode.append(episode_N)
    if not episode:
        return None
    episode_N = torch.cat(episode)
    whole_NZ, forth_NZ, onward_NZ, back_NZ, towards_NZ = (
        torch.cat(list(of_pair)) for of_pair in zip(*latents, strict=True)
    )
    return PairAlgebra(
        additivity_error=_error(forth_NZ + onward_NZ, whole_NZ, episode_N),
        reversal_error=_error(-forth_NZ, back_NZ, episode_N),
        s_pcfc=_mean_cosine(forth_NZ, towards_NZ, episode_N),
        s_pcfc_centered=_mean_cosine(
            forth_NZ - forth_NZ.mean(0), towards_NZ - towards_NZ.mean(0), episode_N
        ),
    )


def _error(predicted_NZ: Tensor, latent_NZ: Tensor, episode_N: Tensor) -> Interval:
    return error_over_variance(
        predicted_NZ - predicted_NZ.mean(0) + latent_NZ.mean(0), latent_NZ, episode_N
    )


def error_over_variance(predicted_NZ: Tensor, latent_NZ: Tensor, episode_N: Tensor) -> Interval:
    """Returns 1 - R2 of predicted latents, with its interval over episodes."""
    score: ProbeScore = score_predictions(
        predicted_NZ.double(), ProbeData(targets=latent_NZ, episode=episode_N)
    )
    return Interval(
        mean=1 - score.r2,
        low=1 - score.r2_high,
        high=1 - score.r2_low,
        num_values=score.num_transitions,
        num_seeds=1,
    )


def _mean_cosine(x_NZ: Tensor, y_NZ: Tensor, episode_N: Tensor) -> Interval:
    cosine_N = F.cosine_similarity(x_NZ.double(), y_NZ.double(), dim=1)
    _, index_N = episode_N.unique(return_inverse=True)
    sums_E = torch.zeros(int(index_N.max()) + 1, dtype=torch.float64).index_add_(
        0, index_N, cosine_N
    )
    means_E = sums_E / index_N.bincount()
    return interval_of_mean([means_E.numpy()], bounds=(-1.0, 1.0))
