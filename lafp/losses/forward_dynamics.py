"""Losses of forward dynamics models. Pure functions: tensors in, scalar out."""

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_MEAN_SQUARE = 1e-4
"""Floor of a residual's mean square: 1.3 grey levels of RMS change. Keeps still clips finite."""


def residual_loss(prediction: Tensor, residual: Tensor) -> Tensor:
    """MSE over the target's own mean square: 1 for predicting no change, whatever moves.

        loss = mean (p - r)^2 / max(mean r^2, 1e-4)

    Args:
        prediction: float, any shape.
        residual: o_{t+1} - o_t in units of [-1, 1] pixels, same shape. Without gradient.

    Returns:
        Scalar.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same_shape(prediction, residual)
    mean_square = residual.square().mean().clamp_min(MIN_MEAN_SQUARE)
    return F.mse_loss(prediction.float(), residual.float()) / mean_square


def frame_loss(prediction: Tensor, frame: Tensor) -> Tensor:
    """Mean squared error, in [-1, 1] pixels: LAPO's loss (arXiv:2312.10812), times four.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same_shape(prediction, frame)
    return F.mse_loss(prediction.float(), frame.float())


@torch.no_grad()
def explained_change(squared_error: Tensor, residual: Tensor) -> Tensor:
    """Share of the change between two frames that a prediction explains.

        1 - squared_error / mean r^2

    0 is as good as predicting no change, 1 is perfect, below 0 is worse than no model.

    Args:
        squared_error: Mean squared error of the predicted frame (or residual).
        residual: o_{t+1} - o_t, at the prediction's size.
    """
    return 1 - squared_error / residual.square().mean().clamp_min(MIN_MEAN_SQUARE)


def _check_same_shape(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected prediction and target of one shape, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}."
        )
