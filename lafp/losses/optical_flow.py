"""Errors of predicted optical flow. Pure functions: tensors in, scalar out."""

import torch
from torch import Tensor


@torch.no_grad()
def end_point_error(prediction: Tensor, flow: Tensor) -> Tensor:
    """Averages the distance between predicted and true displacement, in pixels.

    Args:
        prediction: Predicted optical flow, [B, 2, h, w].
        flow: True optical flow, same shape.

    Returns:
        Scalar.
    """
    return (prediction.float() - flow.float()).norm(dim=1).mean()
