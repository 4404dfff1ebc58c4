"""Losses of predicted optical flow. Pure functions: tensors in, scalar out."""

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_MEAN_SQUARE = 1e-2
"""Floor of the flow's mean square, in pixels squared: 0.1 px RMS. Keeps still clips finite."""


def optical_flow_loss(prediction: Tensor, flow: Tensor) -> Tensor:
    """MSE over the flow's own mean square: 1 for predicting no motion, whatever the frame's size.

        loss = mean (p - f)^2 / max(mean f^2, 0.01 px^2)

    Args:
        prediction: float [B, 2, h, w], in pixels.
        flow: Same shape and unit. Without gradient.

    Returns:
        Scalar.

    Raises:
        ValueError: Shapes disagree.
    """
    if prediction.shape != flow.shape:
        raise ValueError(
            f"Expected prediction and flow of one shape, got {tuple(prediction.shape)} and "
            f"{tuple(flow.shape)}."
        )
    mean_square = flow.float().square().mean().clamp_min(MIN_MEAN_SQUARE)
    return F.mse_loss(prediction.float(), flow.float()) / mean_square


@torch.no_grad()
def end_point_error(prediction: Tensor, flow: Tensor) -> Tensor:
    """Mean distance of predicted and true displacement in pixels: [B, 2, h, w] twice -> scalar."""
    return (prediction.float() - flow.float()).norm(dim=1).mean()
