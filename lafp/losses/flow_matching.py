"""Flow-matching losses. Pure functions: tensors in, scalar out, no state and no config."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from lafp.flow_matching.mean_flow import AverageVelocity, average_velocity_and_target
from lafp.flow_matching.path import (
    MIN_TIME_LEFT,
    broadcast_time,
    point_on_path,
    velocity_towards,
)
from lafp.losses.masked import masked_mean

Model = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> velocity or data of x_t's shape. A closure holds the condition."""
Space = Literal["velocity", "x"]
"""``velocity`` is the velocity of the path, ``x`` the data at the end of the path."""
MEAN_FLOW_OFFSET = 1e-3
"""The constant c of ``mean_flow_loss``, the paper's value."""


def flow_matching_loss(
    model: Model,
    x_0: Tensor,
    x_1: Tensor,
    t: Tensor,
    *,
    prediction: Space,
    loss_space: Space,
    is_present: Tensor | None = None,
) -> Tensor:
    """Computes the loss of conditional flow matching on the straight (CondOT) path.

        x_t = (1 - t) x_0 + t x_1,    u_t = x_1 - x_0
        loss_space velocity:  E || v - u_t ||^2          (Lipman et al., arXiv:2210.02747)
        loss_space x:         E || x_1_hat - x_1 ||^2    (LAFP, arXiv:2606.10517)

    If ``prediction`` and ``loss_space`` differ, the prediction is converted: x_1_hat = x_t +
    (1 - t) v, and v = (x_1_hat - x_t) / (1 - t), with the same floor of 1 - t in prediction and
    target (JiT, Li & He 2025, arXiv:2511.13720). The two losses differ by the weight (1 - t)^2.

    Args:
        model: Predicts ``prediction`` at (x_t, t).
        x_0: Source sample (noise), float [B, ...].
        x_1: Target sample (data), same shape as x_0.
        t: Times in [0, 1], float [B].
        prediction: Whether the model predicts the velocity or the data x_1.
        loss_space: Whether errors are measured in velocities or in data.
        is_present: True for elements that count, bool, x_0's shape; None counts all.

    Returns:
        Scalar mean squared error, averaged over batch and elements.

    Raises:
        ValueError: Shapes disagree.
    """
    x_t = point_on_path(x_0, x_1, t)
    predicted = model(x_t, t)
    target = x_1 if loss_space == "x" else x_1 - x_0
    if prediction == "velocity" and loss_space == "x":
        predicted = x_t + broadcast_time(1 - t, x_t) * predicted
    elif prediction == "x" and loss_space == "velocity":
        predicted = velocity_towards(predicted, x_t, t, MIN_TIME_LEFT)
        # Not x_1 - x_0: near t = 1 the floor of 1 - t shortens the predicted velocity, and the
        # target must be shortened alike.
        target = velocity_towards(x_1, x_t, t, MIN_TIME_LEFT)
    return masked_mean((predicted - target).square(), is_present)


def mean_flow_loss(
    average_velocity: AverageVelocity,
    x_0: Tensor,
    x_1: Tensor,
    t: Tensor,
    s: Tensor,
    *,
    power: float,
    is_present: Tensor | None = None,
) -> Tensor:
    """Computes the MeanFlow loss on the straight path, with samples weighted by their own error.

        loss = E[ e / sg(e + c)^power ],    e = || u(x_t, t, s) - target ||^2 / D

    ``average_velocity_and_target`` computes the target, with v = x_1 - x_0. The target contains
    the model's own derivative, so some errors are very large. The weight keeps these few samples
    from dominating the loss (Geng et al., arXiv:2505.13447, eq. 22; c = 1e-3).

    Args:
        average_velocity: u(x_t, t, s).
        x_0: Source sample (noise), float [B, D].
        x_1: Target sample (data), same shape.
        t: Begins of the intervals, in [0, 1], float [B].
        s: Ends of the intervals, in [t, 1], float [B].
        power: 0 gives the plain mean squared error; the paper found 1 and 0.5 best.
        is_present: True for elements that count, bool [B, D]; None counts all.

    Returns:
        Scalar, averaged over the batch.

    Raises:
        ValueError: Shapes disagree.
    """
    x_t = point_on_path(x_0, x_1, t)
    u, target = average_velocity_and_target(average_velocity, x_t, t, s, x_1 - x_0)
    error = (u - target).square()
    if is_present is None:
        error_B = error.mean(1)
    else:
        error_B = (error * is_present).sum(1) / is_present.sum(1).clamp_min(1)
    return (error_B / (error_B.detach() + MEAN_FLOW_OFFSET) ** power).mean()
