"""The error of predicted actions. Pure functions."""

# Shape suffixes in this file: B samples, A true action.

import torch.nn.functional as F
from torch import Tensor

from lafp.types import ActionSpec

NO_VARIANCE = 1e-12
"""Variances of actions in [-1, 1] below this are only float32 rounding of equal actions."""


def action_loss(predicted_BA: Tensor, true_action: Tensor, action: ActionSpec) -> Tensor:
    """Returns the MSE in normalized units, or the cross-entropy of discrete actions.

    Args:
        predicted_BA: Actions in normalized units, or the logits of the A choices.
        true_action: float [B, A] in the environment's units, or int64 [B].
        action: Describes an action.
    """
    if action.is_discrete:
        return F.cross_entropy(predicted_BA, true_action)
    return F.mse_loss(predicted_BA, action.normalize(true_action))


def action_errors(predicted: Tensor, true_action: Tensor, spec: ActionSpec) -> dict[str, float]:
    """Measures how far predicted actions are from true ones.

    Args:
        predicted: float [N, A] in the environment's units, or int64 [N].
        true_action: Same shape and units.
        spec: Dimensions and range of actions.

    Returns:
        ``action_mse`` (environment's units) and ``action_r2`` (over all dimensions, normalized),
        or ``action_accuracy`` for discrete actions. R^2 is left out if all true actions are equal,
        because their variance is zero.
    """
    if spec.is_discrete:
        return {"action_accuracy": float((predicted == true_action).float().mean())}
    normalized = spec.normalize(true_action)
    error = (spec.normalize(predicted) - normalized).square().mean()
    variance = normalized.var(dim=0, correction=0).mean()
    errors = {"action_mse": float(F.mse_loss(predicted, true_action))}
    if variance > NO_VARIANCE:
        errors["action_r2"] = float(1 - error / variance)
    return errors
