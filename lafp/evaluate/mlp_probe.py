"""A small MLP probe: what a little more than a linear map reads from a latent action."""

# Shape suffixes in this file: N transitions, D features, Y targets.

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.evaluate.probes import ProbeData, episode_folds
from lafp.models.heads import mlp

HIDDEN_DIMS = (256, 256)
LR, WEIGHT_DECAY, BATCH_SIZE = 1e-3, 1e-2, 256
STEPS_PER_CHECK, MAX_CHECKS, PATIENCE = 50, 40, 6
"""Training ends early after ``PATIENCE`` checks that find no lower error on left-out episodes."""


def fit_mlp_probe(features: Tensor, data: ProbeData, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Fits an MLP on standardized features. A fifth of the fit episodes decides when to stop.

    Args:
        features: float [N, D].
        data: The fitting split's targets and episodes, of at least two episodes.
        seed: Of the weights and batches.

    Returns:
        A map from features [N, D] to predicted targets, float64 [N, Y].
    """
    mean_D, std_D = features.mean(0), features.std(0)
    std_D = torch.where(std_D > 0, std_D, 1.0)
    center_Y, scale_Y = data.targets.mean(0), data.targets.std(0)
    scale_Y = torch.where(scale_Y > 0, scale_Y, 1.0)
    inputs_ND, outputs_NY = (features - mean_D) / std_D, (data.targets - center_Y) / scale_Y
    is_left_out_N = episode_folds(data.episode) == 0
    devices = [features.device] if features.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        best = _trained(
            inputs_ND[~is_left_out_N],
            outputs_NY[~is_left_out_N],
            inputs_ND[is_left_out_N],
            outputs_NY[is_left_out_N],
        )

    @torch.no_grad()
    def predict(rows: Tensor) -> Tensor:
        return (best((rows - mean_D) / std_D) * scale_Y + center_Y).double()

    return predict


def _trained(
    inputs_ND: Tensor, outputs_NY: Tensor, left_out_ND: Tensor, left_out_NY: Tensor
) -> torch.nn.Module:
    network = mlp(inputs_ND.shape[1], HIDDEN_DIMS, outputs_NY.shape[1]).to(inputs_ND.device)
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=WEIGHT_DECAY)
    best, lowest, num_without = network, float("inf"), 0
    for _ in range(MAX_CHECKS):
        for _ in range(STEPS_PER_CHECK):
            rows = torch.randint(len(inputs_ND), (BATCH_SIZE,), device=inputs_ND.device)
            optimizer.zero_grad()
            F.mse_loss(network(inputs_ND[rows]), outputs_NY[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            error = float(F.mse_loss(network(left_out_ND), left_out_NY))
        if error < lowest:
            best, lowest, num_without = copy.deepcopy(network), error, 0
        elif (num_without := num_without + 1) == PATIENCE:
            break
    return best
