"""The regression of LARY (Nie et al., arXiv:2604.11689) on labeled shards.

As in ``regression/main.py`` of github.com/meituan-longcat/LARYBench: frame pairs lie ``stride``
steps apart and do not overlap; a residual MLP predicts all actions between the two frames, each
dimension standardized by the training split; the number is the lowest mean squared error on the
held-out split over the epochs. So the epoch is chosen on the held-out split, which flatters all
features alike. LARY's other task, the classes of actions, needs its own tables: ``lary_probe``.
"""

# Shape suffixes in this file: N pairs, D features, Y targets (stride times the action's size).

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafp.evaluate.probes.lam_probe import LabeledTransitions
from lafp.evaluate.probes.linear import r2_of_sums, sums_over_episodes
from lafp.evaluate.rows.statistics import Interval
from lafp.seeding import seeded
from lafp.types import Window

HIDDEN_DIM, NUM_BLOCKS = 4096, 2
LR, WEIGHT_DECAY, BATCH_SIZE, NUM_EPOCHS, WARMUP_SHARE = 1e-4, 1e-4, 256, 20, 0.1
SEED = 42
LEAST_STD = 1e-6
"""A dimension of the actions that varies less is not divided by its standard deviation."""


@dataclass(frozen=True, kw_only=True)
class LaryPairs:
    """Features of frame pairs, the actions between the frames, and the episodes."""

    features: Tensor
    """float32 [N, D]."""
    actions: Tensor
    """float32 [N, Y]."""
    episode: Tensor
    """int64 [N]."""


def lary_pairs(
    features_of: Callable[[Window], Tensor],
    transitions: LabeledTransitions,
    frame_stack: int,
    stride: int,
    device: torch.device,
) -> LaryPairs | None:
    """Computes features of all pairs of one split; None if no clip is long enough.

    Args:
        features_of: Maps windows to features.
        transitions: The split.
        frame_stack: Frames of an observation.
        stride: Steps between the frames of a pair.
        device: Computes the features.
    """
    parts = [
        (features_of(window).float().cpu(), actions.flatten(1).float().cpu(), episode_N)
        for window, actions, episode_N in transitions.pairs(frame_stack, stride, device)
    ]
    if not parts:
        return None
    features_ND, actions_NY, episode_N = (torch.cat(column) for column in zip(*parts, strict=True))
    return LaryPairs(features=features_ND, actions=actions_NY, episode=episode_N)


def lary_mse(
    fit: LaryPairs,
    held_out: LaryPairs,
    stride: int,
    device: torch.device,
    hidden_dim: int = HIDDEN_DIM,
    num_epochs: int = NUM_EPOCHS,
) -> Interval:
    """Returns LARY's mean squared error of standardized actions; 1 is that of the mean action.

    The interval resamples held-out episodes. LARY reports none.
    """
    mean_Y, std_Y = _statistics(fit.actions, stride)
    targets_NY, held_out_NY = (
        ((pairs.actions - mean_Y) / std_Y).to(device) for pairs in (fit, held_out)
    )
    best_N: Tensor | None = None
    with seeded(SEED, device):
        network = _Network(fit.features.shape[1], hidden_dim, targets_NY.shape[1]).to(device)
        for _ in _epochs(network, fit.features, targets_NY, num_epochs):
            error_N = _errors(network, held_out.features, held_out_NY)
            if best_N is None or error_N.mean() < best_N.mean():
                best_N = error_N
    assert best_N is not None
    sums = sums_over_episodes(best_N, torch.ones_like(best_N), held_out.episode)
    value, low, high = (1 - r2 for r2 in r2_of_sums(sums))
    return Interval(mean=value, low=high, high=low, num_values=len(best_N), num_seeds=1)


class _Network(nn.Module):
    """LARY's ``MLPResNet``."""

    def __init__(self, num_features: int, hidden_dim: int, num_outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.LayerNorm(num_features), nn.Linear(num_features, hidden_dim), nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, hidden_dim), nn.ReLU())
            for _ in range(NUM_BLOCKS)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, num_outputs))

    def forward(self, features_ND: Tensor) -> Tensor:
        """Maps features to standardized actions."""
        hidden = self.first(features_ND)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


@torch.enable_grad()
def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    features_ND: Tensor,
    targets_NY: Tensor,
) -> None:
    for rows in torch.randperm(len(features_ND)).split(BATCH_SIZE):
        optimizer.zero_grad()
        predicted = network(features_ND[rows].to(targets_NY.device))
        F.huber_loss(predicted, targets_NY[rows.to(targets_NY.device)]).backward()
        optimizer.step()
        schedule.step()


def _epochs(
    network: nn.Module, features_ND: Tensor, targets_NY: Tensor, num_epochs: int
) -> Iterator[int]:
    """Trains for one epoch per step of the iteration."""
    num_steps = num_epochs * -(-len(features_ND) // BATCH_SIZE)
    warmup = max(1, int(WARMUP_SHARE * num_steps))
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / warmup))
    for epoch in range(num_epochs):
        _epoch(network, optimizer, schedule, features_ND, targets_NY)
        yield epoch


@torch.no_grad()
def _errors(network: nn.Module, features_ND: Tensor, targets_NY: Tensor) -> Tensor:
    """Returns the mean squared error of each pair, float64 [N] on the CPU."""
    parts = zip(features_ND.split(BATCH_SIZE), targets_NY.split(BATCH_SIZE), strict=True)
    errors = [(network(x.to(y.device)) - y).square().mean(1) for x, y in parts]
    return torch.cat(errors).double().cpu()


def _statistics(actions_NY: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each dimension of an action, for all steps [Y]."""
    actions = actions_NY.unflatten(1, (stride, -1)).flatten(0, 1)
    std = actions.std(0, correction=0)
    std = torch.where(std < LEAST_STD, 1.0, std)
    return actions.mean(0).repeat(stride), std.repeat(stride)
