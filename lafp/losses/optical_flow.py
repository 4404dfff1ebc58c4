"""Errors of predicted optical flow. Pure functions: tensors in, scalar out."""

import torch
from torch import Tensor


@torch.no_grad()
def end_point_error(prediction: Tensor, flow: Tensor) -> Tensor:
    """Mean distance of predicted and true displacement in pixels: [B, 2, h, w] twice -> scalar."""
    return (prediction.float() - flow.float()).norm(dim=1).mean()
