"""Losses of forward dynamics models. Pure functions: tensors in, scalar out."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lafp.losses.masked import defined_if_weighted, mean_of_weighted_rows, weighted_means

LARGE = 2.0
"""Limit of the RMS change, in multiples of the typical change. The error of a window that changes
by more is divided by (its own RMS change / LARGE)^2."""


def residual_loss(prediction: Tensor, residual: Tensor, weight: Tensor | None = None) -> Tensor:
    """Computes the MSE of a change in units of the data's typical change (``ChangeScale``).

        loss = mean_B [ mean (p - r)^2 / max(mean r^2 / 4, 1) ],    inner means over one window

    With weights the inner means are sum w v / sum w, so that the loss does not depend on how much
    of the frame has weight. Windows without any weight do not count.

    A prediction of no change costs 1 in a window with the typical change. If a window changes by
    more than twice that, its error is divided by its own change, so that predicting no change
    costs at most 4. Otherwise the few windows with much motion would dominate the loss.

    Args:
        prediction: float [B, ...].
        residual: o_{t+1} - o_t in units of the typical change, same shape, without gradient.
        weight: Weights of the elements, which broadcast to that shape; None for equal weights.

    Returns:
        Scalar.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same_shape(prediction, residual)
    residual = residual.float()
    error_B = weighted_means((prediction.float() - residual).square(), weight)
    size_B = weighted_means(residual.square(), weight)
    return mean_of_weighted_rows(error_B / (size_B / LARGE**2).clamp_min(1), weight)


def frame_loss(prediction: Tensor, frame: Tensor, weight: Tensor | None = None) -> Tensor:
    """Computes the mean squared error of pixels in [-1, 1].

    This is four times LAPO's loss (arXiv:2312.10812), whose pixels span half that range. Weights
    count as in ``residual_loss``.

    Args:
        prediction: float [B, ...].
        frame: Target of the same shape.
        weight: Weights of the elements, which broadcast to that shape; None for equal weights.

    Returns:
        Scalar.

    Raises:
        ValueError: Shapes disagree.
    """
    _check_same_shape(prediction, frame)
    if weight is None:
        return F.mse_loss(prediction.float(), frame.float())
    error_B = weighted_means((prediction.float() - frame.float()).square(), weight)
    return mean_of_weighted_rows(error_B, weight)


@torch.no_grad()
def prediction_errors(
    predicted: Tensor, obs: Tensor, next_obs: Tensor, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Computes the metrics ``fdm_error`` and ``copy_error``.

    They are the mean squared errors of the FDM's prediction and of predicting o_t itself. They are
    weighed like the loss: nothing trains a prediction that has no weight.

    Args:
        predicted: The FDM's o_{t+1}: a frame, its patches or its embedding.
        obs: o_t in the same form.
        next_obs: o_{t+1} in the same form.
        weight: Weights of the loss.

    Returns:
        Scalars by the name of the metric; NaN if no window has any weight.
    """
    return {
        "fdm_error": defined_if_weighted(frame_loss(predicted, next_obs, weight), weight),
        "copy_error": defined_if_weighted(frame_loss(obs, next_obs, weight), weight),
    }


def explained_change(metrics: Mapping[str, float], prefix: str = "") -> dict[str, float]:
    """Computes the share of the change between two frames that a model's predictions explain.

        fdm_explained = 1 - fdm_error / copy_error

    1 is perfect, 0 is as good as predicting o_t, and below 0 is worse than that. Both errors are
    averaged over many pairs before they are divided, because a mean of quotients would mostly
    depend on the pairs in which hardly anything moves. Terminal, curves and report show this
    number.

    Args:
        metrics: Means of ``prediction_errors``.
        prefix: Prefix of the metrics' names, e.g. ``val/``.

    Returns:
        The one metric; empty if the errors were not measured, or if nothing moves at all.
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
