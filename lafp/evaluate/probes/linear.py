"""Linear probes: what a linear map can read from a latent action about the true action.

Ridge regression with centred features and targets (so the intercept is unpenalised), fitted on
some episodes and measured on others. The penalty is chosen by cross-validation over episodes of
the fitting split alone. Pure functions of tensors.
"""

# Shape suffixes in this file: N transitions, D features, Y targets, E episodes, R resamples.

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.evaluate.probes.ridge import MAX_MEMORY_BYTES, LinearProbe, Ridge
from lafp.storage.strict_json import defined
from lafp.types import ActionSpec

NO_VARIANCE = 1e-18
"""A sum of squared deviations below is the rounding of equal actions, which lie in [-1, 1]."""
NUM_FOLDS = 5
MIN_FIT_TRANSITIONS = 32
"""Smallest number of transitions for which a curve over the number of them says anything."""
NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class ProbeData:
    """The targets and episodes of one split's transitions."""

    targets: Tensor
    """float [N, Y]: normalised actions, or one-hot rows of discrete ones."""
    episode: Tensor
    """int64 [N]: which episode a transition belongs to."""
    is_unseen: Tensor | None = None
    """bool [N]: whether its episode looks other than those of training."""
    noise: Tensor | None = None
    """float [N, Y]: the part of the action that is exploration, which no state tells."""

    def __getitem__(self, rows: Tensor) -> "ProbeData":
        """Takes some of the transitions, by indices or a mask."""
        others = {
            name: None if (value := getattr(self, name)) is None else value[rows]
            for name in ("is_unseen", "noise")
        }
        return ProbeData(targets=self.targets[rows], episode=self.episode[rows], **others)

    def __post_init__(self) -> None:
        if self.targets.ndim != 2 or self.episode.shape != self.targets.shape[:1]:
            raise ValueError(
                "Expected targets [N, Y] and episode [N], got "
                f"{tuple(self.targets.shape)} and {tuple(self.episode.shape)}."
            )


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """How well a probe predicts the actions of held-out episodes."""

    mse: float
    """Mean squared error, over transitions and dimensions."""
    action_variance: float
    """The error of predicting the held-out mean: the control that knows nothing."""
    r2: float
    """1 - mse / action_variance; NaN, as its interval, where the actions are all alike."""
    r2_low: float
    """95 % interval: percentile bootstrap over the held-out episodes."""
    r2_high: float
    num_transitions: int
    num_episodes: int
    sums: Tensor = field(repr=False, compare=False)
    """float64 [2, E]: summed error and summed deviation of each held-out episode."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Difference of two probes' R2 on the same held-out episodes."""

    value: float
    low: float
    """95 % interval: both are resampled together, so that what they share cancels out."""
    high: float


def action_targets(true_action: Tensor, spec: ActionSpec) -> Tensor:
    """Returns the targets of a linear probe: actions in [-1, 1], or one-hot rows of discrete ones.

    Args:
        true_action: float [N, A] in the environment's units, or int64 [N].
        spec: What an action is.

    Returns:
        float [N, Y], Y = ``spec.dim``.
    """
    if spec.is_discrete:
        return F.one_hot(true_action, spec.dim).float()
    return spec.normalize(true_action)


def fit_probe(features: Tensor, data: ProbeData) -> LinearProbe:
    """Fits a ridge regression with the penalty that predicts left-out episodes best.

    Args:
        features: float [N, D].
        data: The fitting split's targets and episodes.

    Raises:
        ValueError: Fewer than two episodes, or shapes disagree.
    """
    return ridge_of(features, data).fit()


def ridge_of(
    features: Tensor,
    data: ProbeData,
    rows: Tensor | None = None,
    max_memory_bytes: int = MAX_MEMORY_BYTES,
) -> Ridge:
    """Prepares ridge regressions that leave whole episodes out to choose their penalty.

    Neighbouring transitions are so alike that any penalty would predict them.

    Args:
        features: float [N, D].
        data: The fitting split's targets and episodes.
        rows: The transitions to fit on; None takes all of them.
        max_memory_bytes: See ``Ridge``.

    Raises:
        ValueError: Fewer than two episodes, or shapes disagree.
    """
    if len(features) != len(data.targets):
        raise ValueError(f"{len(features)} feature rows for {len(data.targets)} targets.")
    rows = torch.arange(len(features)) if rows is None else rows
    folds = episode_folds(data.episode.cpu()[rows])
    return Ridge(features, data.targets, rows, folds, max_memory_bytes)


def r2_over_fit_size(
    features: Tensor,
    data: ProbeData,
    held_out_features: Tensor,
    held_out: ProbeData,
    max_memory_bytes: int = MAX_MEMORY_BYTES,
) -> dict[int, float]:
    """Measures R2 of the ridge over the number of transitions of the fit: quarters of quarters.

    Smaller fits take transitions spread evenly over the larger one's. If R2 still rises at the end,
    more labels would find more in z. The largest fit, which takes all, is left to the caller.

    Args:
        features: float [N, D].
        data: The fitting split's targets and episodes.
        held_out_features: float [M, D].
        held_out: The held-out split's targets and episodes.
        max_memory_bytes: See ``Ridge``.
    """
    num, scores = len(features) // 4, {}
    while num >= MIN_FIT_TRANSITIONS:
        rows = torch.linspace(0, len(features) - 1, num).round().long()
        if len(data.episode.cpu()[rows].unique()) > 1:
            probe = ridge_of(features, data, rows, max_memory_bytes).fit()
            scores[probe.num_fit] = score_probe(probe, held_out_features, held_out).r2
        num //= 4
    return dict(sorted(scores.items()))


def score_probe(
    probe: Callable[[Tensor], Tensor], features: Tensor, data: ProbeData, seed: int = 0
) -> ProbeScore:
    """Measures a probe, which was fitted on other episodes. See ``score_predictions``."""
    return score_predictions(probe(features), data, seed)


def score_predictions(predicted: Tensor, data: ProbeData, seed: int = 0) -> ProbeScore:
    """Measures predictions of the targets of held-out episodes.

    Args:
        predicted: float64 [N, Y].
        data: The held-out split's targets and episodes.
        seed: Seed of the bootstrap.
    """
    targets_NY = data.targets.double()
    squared_error_N = (predicted - targets_NY).square().mean(-1)
    deviation_N = (targets_NY - targets_NY.mean(0)).square().mean(-1)
    sums_2E = sums_over_episodes(squared_error_N, deviation_N, data.episode)
    r2, low, high = r2_of_sums(sums_2E, seed)
    error, total = sums_2E.sum(1)
    return ProbeScore(
        mse=float(error / len(targets_NY)),
        action_variance=float(total / len(targets_NY)),
        r2=r2,
        r2_low=low,
        r2_high=high,
        num_transitions=len(targets_NY),
        num_episodes=sums_2E.shape[1],
        sums=sums_2E,
    )


def sums_over_episodes(error_N: Tensor, deviation_N: Tensor, episode_N: Tensor) -> Tensor:
    """Sums errors and deviations of each episode: ``ProbeScore.sums``, float64 [2, E]."""
    ids, index_N = episode_N.unique(return_inverse=True)
    sums_2E = torch.zeros(2, len(ids), dtype=torch.float64)
    return sums_2E.index_add_(1, index_N.cpu(), torch.stack([error_N, deviation_N]).cpu())


def r2_of_sums(sums_2E: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Returns R2 of ``ProbeScore.sums``, and both ends of its 95 % interval over episodes."""
    return float(_r2(*sums_2E.sum(1))), *_quantiles(_resampled_r2(sums_2E, seed))


def gain(ours: ProbeScore, theirs: ProbeScore) -> Gain:
    """Compares two probes that were measured on the same held-out episodes."""
    return gain_of_sums(ours.sums, theirs.sums)


def gain_of_sums(ours_2E: Tensor, theirs_2E: Tensor) -> Gain:
    """Compares two probes by their ``ProbeScore.sums``."""
    difference_R = _resampled_r2(ours_2E, 0) - _resampled_r2(theirs_2E, 0)
    low, high = _quantiles(difference_R)
    ours, theirs = (float(_r2(*sums_2E.sum(1))) for sums_2E in (ours_2E, theirs_2E))
    return Gain(value=ours - theirs, low=low, high=high)


def _resampled_r2(sums_2E: Tensor, seed: int) -> Tensor:
    """Returns the R2 of resamples of episodes, the same ones for the same seed."""
    num_episodes = sums_2E.shape[1]
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(num_episodes, (NUM_RESAMPLES, num_episodes), generator=generator)
    return _r2(*sums_2E[:, picks].sum(-1))


def _quantiles(values_R: Tensor) -> tuple[float, float]:
    # A resample of episodes whose actions are all alike has no R2, which is NaN.
    levels = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = values_R.nanquantile(levels).tolist()
    return low, high


def accuracy(predicted: Tensor, data: ProbeData) -> float:
    """Returns the share of transitions whose discrete action has the largest prediction."""
    return float((predicted.argmax(-1) == data.targets.argmax(-1)).double().mean())


def probe_metrics(scores: Mapping[str, ProbeScore]) -> dict[str, float]:
    """Names the metrics of the probe on z and of its controls.

    Args:
        scores: Probed features -> score: ``latent`` (required) and controls, e.g. ``obs_embedding``
            and ``random_lam``, which become ``probe/r2_<name>`` and ``probe/gain_over_<name>``.

    Returns:
        The metrics that are defined. R2 is not if all held-out actions are equal.
    """
    latent = scores["latent"]
    metrics = {
        "probe/r2": latent.r2,
        "probe/r2_low": latent.r2_low,
        "probe/r2_high": latent.r2_high,
        "probe/mse": latent.mse,
        "probe/action_variance": latent.action_variance,
        "probe/n": float(latent.num_transitions),
        "probe/num_episodes": float(latent.num_episodes),
    }
    for name, score in scores.items():
        if name != "latent":
            over = gain(latent, score)
            metrics |= {
                f"probe/r2_{name}": score.r2,
                f"probe/gain_over_{name}": over.value,
                f"probe/gain_over_{name}_low": over.low,
                f"probe/gain_over_{name}_high": over.high,
            }
    return defined(metrics)


def episode_folds(episode_N: Tensor) -> Tensor:
    """Returns the fold of each transition, int64 [N]. An episode is in one fold only."""
    ids, index_N = episode_N.unique(return_inverse=True)
    if len(ids) < 2:
        raise ValueError(f"A probe needs at least two episodes to fit on, got {len(ids)}.")
    return index_N % min(NUM_FOLDS, len(ids))


def _r2(error: Tensor, total: Tensor) -> Tensor:
    """Returns 1 - error / total; NaN if all targets are equal, as then nothing is to explain."""
    return torch.where(total > NO_VARIANCE, 1 - error / total, torch.nan)
