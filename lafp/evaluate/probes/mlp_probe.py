"""A small MLP probe: what a little more than a linear map reads from a latent action."""

# Shape suffixes in this file: N transitions, D features, Y targets, L transitions left out.

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.evaluate.probes.linear import ProbeData, episode_folds
from lafp.evaluate.probes.normal_equations import block_rows
from lafp.models.heads import mlp
from lafp.seeding import seeded

HIDDEN_DIMS = (256, 256)
LR, WEIGHT_DECAY, BATCH_SIZE = 1e-3, 1e-2, 256
STEPS_PER_CHECK, MAX_CHECKS, PATIENCE = 50, 40, 6
"""Training ends early after ``PATIENCE`` checks that find no lower error on left-out episodes."""


def fit_mlp_probe(features: Tensor, data: ProbeData, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Fits an MLP on standardized features. A fifth of the fit episodes decides when to stop.

    Args:
        features: float [N, D]. May lie on the CPU, mapped from a file: they are read in parts.
        data: The fitting split's targets and episodes, of at least two episodes.
        seed: Of the weights and batches.

    Returns:
        A map from features [N, D] to predicted targets, float64 [N, Y].
    """
    device = data.targets.device
    mean_D, std_D = (moment.to(device) for moment in _mean_and_std(features))
    center_Y, scale_Y = data.targets.mean(0), data.targets.std(0)
    scale_Y = torch.where(scale_Y > 0, scale_Y, 1.0)
    outputs_NY = (data.targets - center_Y) / scale_Y

    def inputs(rows: Tensor) -> Tensor:
        return (features[rows.to(features.device)].to(device) - mean_D) / std_D

    is_left_out_N = episode_folds(data.episode) == 0
    with seeded(seed, device), torch.enable_grad():
        best = _trained(inputs, outputs_NY, is_left_out_N, features.shape[1])

    @torch.no_grad()
    def predict(rows: Tensor) -> Tensor:
        blocks = [
            best((block.to(device) - mean_D) / std_D) * scale_Y + center_Y
            for block in rows.split(block_rows(rows.shape[1]))
        ]
        return torch.cat(blocks).double()

    return predict


def _mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each feature, float32 [D]; 1 where the latter is 0."""
    blocks, num = features.split(block_rows(features.shape[1])), len(features)
    zeros_D = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    mean_D = sum((block.sum(0, dtype=torch.float64) for block in blocks), zeros_D) / num
    squared_D = sum(((block - mean_D).square().sum(0) for block in blocks), zeros_D)
    std_D = (squared_D / (num - 1)).sqrt()
    return mean_D.float(), torch.where(std_D > 0, std_D, 1.0).float()


def _trained(
    inputs: Callable[[Tensor], Tensor], outputs_NY: Tensor, is_left_out_N: Tensor, num_features: int
) -> torch.nn.Module:
    device = outputs_NY.device
    fit, left_out = (~is_left_out_N).nonzero().flatten(), is_left_out_N.nonzero().flatten()
    network = mlp(num_features, HIDDEN_DIMS, outputs_NY.shape[1]).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=WEIGHT_DECAY)
    best, lowest, num_without = network, float("inf"), 0
    for _ in range(MAX_CHECKS):
        for _ in range(STEPS_PER_CHECK):
            rows = fit[torch.randint(len(fit), (BATCH_SIZE,), device=device)]
            optimizer.zero_grad()
            F.mse_loss(network(inputs(rows)), outputs_NY[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            parts = left_out.split(block_rows(num_features))
            predicted_LY = torch.cat([network(inputs(rows)) for rows in parts])
            error = float(F.mse_loss(predicted_LY, outputs_NY[left_out]))
        if error < lowest:
            best, lowest, num_without = copy.deepcopy(network), error, 0
        elif (num_without := num_without + 1) == PATIENCE:
            break
    return best
