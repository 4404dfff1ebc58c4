"""The error of predicted actions. Pure functions."""

# Shape suffixes in this file: B samples, A true action.

import torch.nn.functional as F
from torch import Tensor

from lafp.types import ActionSpec


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
