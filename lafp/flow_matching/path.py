"""The straight path from noise (t = 0) to data (t = 1). Time runs that way everywhere in lafp."""

# Shape suffixes in this file: B batch; B1 broadcasts over the remaining axes.

from torch import Tensor

MIN_TIME_LEFT = 0.05
"""Floor of 1 - t where a velocity is computed from predicted data (JiT's value)."""


def point_on_path(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) x_0 + t x_1, whose velocity is u_t = x_1 - x_0.

    The conditional optimal-transport path (Lipman et al., arXiv:2210.02747, with sigma_min = 0),
    also rectified flow (Liu et al., arXiv:2209.03003).

    Args:
        x_0: Source sample (noise), float [B, ...].
        x_1: Target sample (data), same shape.
        t: Times in [0, 1], float [B].

    Raises:
        ValueError: Shapes disagree. Unchecked, t of shape [B] broadcasts against the *last* axis.
    """
    if x_0.shape != x_1.shape or t.shape != x_0.shape[:1]:
        raise ValueError(
            "Expected x_0 and x_1 of one shape [B, ...] and t of shape [B], got "
            f"{tuple(x_0.shape)}, {tuple(x_1.shape)} and {tuple(t.shape)}."
        )
    t_B1 = broadcast_time(t, x_0)
    return (1 - t_B1) * x_0 + t_B1 * x_1


def velocity_towards(x_1: Tensor, x_t: Tensor, t: float | Tensor) -> Tensor:
    """Velocity of the straight path that goes through x_t at time t and ends in x_1.

    (x_1 - x_t) / (1 - t), with 1 - t no smaller than ``MIN_TIME_LEFT`` (JiT, Li & He 2025,
    arXiv:2511.13720): a model that predicts the data becomes a velocity field through it.
    """
    if isinstance(t, float):
        return (x_1 - x_t) / max(1 - t, MIN_TIME_LEFT)
    return (x_1 - x_t) / broadcast_time(1 - t, x_t).clamp_min(MIN_TIME_LEFT)


def broadcast_time(t: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...], with as many axes as ``like``."""
    return t.view(-1, *[1] * (like.ndim - 1))
