"""Losses of forward dynamics models. Pure functions: tensors in, scalar out."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 2.0
"""Windows that change by more, in units of the typical change, count by their share of it."""


def residual_loss(prediction: Tensor, residual: Tensor) -> Tensor:
    """MSE of a change that is given in units of the data's typical change (``ChangeScale``).

        loss = mean_B [ mean (p - r)^2 / max(mean r^2 / 4, 1) ],    inner means over one window

    1 for predicting no change in a window where as much moves as is typical. From twice as much on
    errors are relative to the window's own change, and cost 4 at most for predicting none: few
    windows with much motion do not drown the others.

    Args:
        prediction: float [B, ...].
        residual: o_{t+1} - o_t in these units, same shape. Without gradient.

    Returns:
        Scalar.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same_shape(prediction, residual)
    residual_BD = residual.float().flatten(1)
    error_B = (prediction.float().flatten(1) - residual_BD).square().mean(1)
    return (error_B / (residual_BD.square().mean(1) / LARGE**2).clamp_min(1)).mean()


def frame_loss(prediction: Tensor, frame: Tensor) -> Tensor:
    """Mean squared error, in [-1, 1] pixels: LAPO's loss (arXiv:2312.10812), times four.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same_shape(prediction, frame)
    return F.mse_loss(prediction.float(), frame.float())


@torch.no_grad()
def prediction_errors(predicted: Tensor, obs: Tensor, next_obs: Tensor) -> dict[str, Tensor]:
    """Metrics ``fdm_error`` and ``copy_error``: squared errors of a prediction, and of o_t itself.

    Args:
        predicted: The FDM's o_{t+1}: a frame, its patches or its embedding.
        obs: o_t in the same form.
        next_obs: o_{t+1} in the same form.
    """
    return {
        "fdm_error": frame_loss(predicted, next_obs),
        "copy_error": frame_loss(obs, next_obs),
    }


def explained_change(metrics: Mapping[str, float], prefix: str = "") -> dict[str, float]:
    """Share of the change between two frames that a model's predictions explain.

        fdm_explained = 1 - fdm_error / copy_error

    1 is perfect, 0 is as good as taking o_t for o_{t+1}, below 0 is worse than no model. Both
    errors are means over many pairs *before* they are divided: a mean of quotients would be ruled
    by the pairs in which hardly anything moves. Terminal, curves and report show this number.

    Args:
        metrics: Means of ``prediction_errors``.
        prefix: Of their names, e.g. ``val/``.

    Returns:
        The one metric; nothing where the errors were not measured or nothing moves at all.
    """
    error, copied = (metrics.get(f"{prefix}{name}") for name in ("fdm_error", "copy_error"))
    if error is None or copied is None or not copied > 0:
        return {}
    return {f"{prefix}fdm_explained": 1 - error / copied}


def _check_same_shape(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"Expected prediction and target of one shape, got {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}."
        )
