"""The straight path from noise (t = 0) to data (t = 1). All of lafp uses this direction of time."""

# Shape suffixes in this file: B batch; B1 broadcasts over the remaining axes.

from torch import Tensor

MIN_TIME_LEFT = 0.05
"""Floor of 1 - t when a loss turns predicted data into a velocity (JiT's value). Near t = 1 the
division would blow up the errors of the prediction."""
_MIN_TIME_LEFT_SOLVING = 1e-6
"""A solver's step is no longer than 1 - t, so it undoes the division, and no floor is needed but
that against 0 / 0."""


def point_on_path(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """Computes x_t = (1 - t) x_0 + t x_1, whose velocity is u_t = x_1 - x_0.

    This is the conditional optimal-transport path (Lipman et al., arXiv:2210.02747, with
    sigma_min = 0), also called rectified flow (Liu et al., arXiv:2209.03003).

    Args:
        x_0: Source sample (noise), float [B, ...].
        x_1: Target sample (data), same shape.
        t: Times in [0, 1], float [B].

    Returns:
        x_t, of x_0's shape.

    Raises:
        ValueError: Shapes disagree.
    """
    # Without this check, t of shape [B] would broadcast against the last axis.
    if x_0.shape != x_1.shape or t.shape != x_0.shape[:1]:
        raise ValueError(
            "Expected x_0 and x_1 of one shape [B, ...] and t of shape [B], got "
            f"{tuple(x_0.shape)}, {tuple(x_1.shape)} and {tuple(t.shape)}."
        )
    t_B1 = broadcast_time(t, x_0)
    return (1 - t_B1) * x_0 + t_B1 * x_1


def velocity_towards(
    x_1: Tensor,
    x_t: Tensor,
    t: float | Tensor,
    min_time_left: float = _MIN_TIME_LEFT_SOLVING,
) -> Tensor:
    """Computes the velocity of the straight path through x_t at time t that ends in x_1.

        v = (x_1 - x_t) / max(1 - t, min_time_left)

    It turns a model that predicts data into a velocity field (JiT, Li & He 2025,
    arXiv:2511.13720).

    Args:
        x_1: Data, float [B, ...].
        x_t: Points on the path, same shape.
        t: Times in [0, 1], one for all or float [B].
        min_time_left: Floor of 1 - t. The default lets one step from t to 1 end in x_1.

    Returns:
        Velocity, of x_t's shape.
    """
    if isinstance(t, float):
        return (x_1 - x_t) / max(1 - t, min_time_left)
    return (x_1 - x_t) / broadcast_time(1 - t, x_t).clamp_min(min_time_left)


def broadcast_time(t: Tensor, like: Tensor) -> Tensor:
    """Reshapes [B] to [B, 1, ...], with as many axes as ``like``."""
    return t.view(-1, *[1] * (like.ndim - 1))
