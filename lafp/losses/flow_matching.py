"""Flow-matching losses. Pure functions: tensors in, scalar out, no state and no config."""

from collections.abc import Callable

from torch import Tensor

from lafp.flow.mean_flow import AverageVelocity, average_velocity_and_target
from lafp.flow.path import point_on_path, velocity_towards
from lafp.losses.masked import masked_mean

Model = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> velocity or data of x_t's shape. Close over conditioning."""
MEAN_FLOW_OFFSET = 1e-3
"""c of ``mean_flow_loss``."""


def conditional_flow_matching_loss(
    velocity_field: Model, x_0: Tensor, x_1: Tensor, t: Tensor, is_present: Tensor | None = None
) -> Tensor:
    """Conditional flow matching on the straight (CondOT) path.

        x_t = (1 - t) x_0 + t x_1,    target velocity u_t = x_1 - x_0
        loss = E || v(x_t, t) - u_t ||^2          (Lipman et al., arXiv:2210.02747, sigma_min = 0)

    Args:
        velocity_field: v(x_t, t).
        x_0: Source sample (noise), float [B, ...].
        x_1: Target sample (data), same shape as x_0.
        t: Times in [0, 1], float [B].
        is_present: Which elements count, bool, x_0's shape; None counts all.

    Returns:
        Scalar mean squared error, averaged over batch and elements.

    Raises:
        ValueError: Shapes disagree.
    """
    x_t = point_on_path(x_0, x_1, t)
    return masked_mean((velocity_field(x_t, t) - (x_1 - x_0)).square(), is_present)


def data_prediction_flow_matching_loss(
    data_predictor: Model, x_0: Tensor, x_1: Tensor, t: Tensor, is_present: Tensor | None = None
) -> Tensor:
    """Flow matching for a model that predicts the data; the loss stays in velocity space.

        v = (x_1_hat(x_t, t) - x_t) / (1 - t),    loss = E || v - (x_1 - x_t) / (1 - t) ||^2

    with 1 - t floored alike in both (JiT, Li & He 2025, arXiv:2511.13720). Away from the floor
    the target is x_1 - x_0, as above.

    Args:
        data_predictor: x_1_hat(x_t, t).
        x_0: Source sample (noise), float [B, ...].
        x_1: Target sample (data), same shape as x_0.
        t: Times in [0, 1], float [B].
        is_present: Which elements count, bool, x_0's shape; None counts all.

    Returns:
        Scalar mean squared error, averaged over batch and elements.

    Raises:
        ValueError: Shapes disagree.
    """
    x_t = point_on_path(x_0, x_1, t)
    predicted = velocity_towards(data_predictor(x_t, t), x_t, t)
    return masked_mean((predicted - velocity_towards(x_1, x_t, t)).square(), is_present)


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
    """MeanFlow on the straight path, its samples weighted by their own error.

        loss = E[ e / sg(e + c)^power ],    e = || u(x_t, t, s) - target ||^2 / D

    The target is that of ``average_velocity_and_target`` with v = x_1 - x_0. Its errors are heavy-
    tailed, since the model's own derivative is in it; the weight keeps few samples from leading all
    others (Geng et al., arXiv:2505.13447, eq. 22; c = 1e-3).

    Args:
        average_velocity: u(x_t, t, s).
        x_0: Source sample (noise), float [B, D].
        x_1: Target sample (data), same shape.
        t: Where intervals begin, in [0, 1], float [B].
        s: Where they end, in [t, 1], float [B].
        power: 0 is the plain mean squared error; the paper found 1 and 0.5 best.
        is_present: Which elements count, bool [B, D]; None counts all.

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
