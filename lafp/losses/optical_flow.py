"""Errors of predicted optical flow. Pure functions: tensors in, scalar out."""

import torch
from torch import Tensor

from lafp.losses.masked import defined_if_weighted, mean_of_weighted_rows, weighted_means


@torch.no_grad()
def end_point_error(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Averages the distance between predicted and true displacement, in pixels.

    Args:
        prediction: Predicted optical flow, [B, 2, h, w].
        target: True optical flow, same shape.
        weight: Weights of the loss, [B, 1, h, w]; None for equal weights.

    Returns:
        Scalar; NaN if no window has any weight.
    """
    distance = (prediction.float() - target.float()).norm(dim=1, keepdim=True)
    error = mean_of_weighted_rows(weighted_means(distance, weight), weight)
    return defined_if_weighted(error, weight)
