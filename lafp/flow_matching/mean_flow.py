"""Average velocities: flows that go from noise to data in one step."""

# Shape suffixes in this file: B batch.

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lafp.device_constants import device_constant
from lafp.flow_matching.path import broadcast_time
from lafp.flow_matching.solver import StepsTaken, step_times

AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""u(x_t [B, ...], t [B], s [B]) -> x_t's shape, such that x_s = x_t + (s - t) u. A closure holds
the condition."""


def average_velocity_and_target(
    average_velocity: AverageVelocity, x_t: Tensor, t: Tensor, s: Tensor, velocity: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluates an average velocity, and its training target by the MeanFlow identity.

        (s - t) u(x_t, t, s) = integral of v(x_r, r) over r from t to s,    hence, by d/dt,
        u = v + (s - t) du/dt,    du/dt = v du/dx + du/dt at constant x

    Geng et al., *Mean Flows for One-step Generative Modeling*, arXiv:2505.13447, eq. 6. Our time
    runs from noise (0) to data (1) as everywhere in lafp, which changes the sign of the derivative
    term: here the interval ends at s >= t. The total derivative is one forward-mode product. The
    target is linear in v, so replacing v by the conditional velocity x_1 - x_0 does not change its
    expectation.

    Args:
        average_velocity: u(x_t, t, s), differentiable forward.
        x_t: Points, float [B, ...].
        t: Times of the points, float [B].
        s: Ends of the intervals, float [B], no less than t.
        velocity: v or its estimate, x_t's shape.

    Returns:
        u with its gradient, and the target without.
    """
    tangents = velocity, torch.ones_like(t), torch.zeros_like(s)
    u, du_dt = torch.func.jvp(average_velocity, (x_t, t, s), tangents)[:2]
    target = velocity + broadcast_time(s - t, x_t) * du_dt
    # MeanFlow stops the gradient at the target, which holds the model's own derivative.
    return u, target.detach()


def integrate_average(
    average_velocity: AverageVelocity,
    x: Tensor,
    *,
    start_time: float | Tensor = 0.0,
    num_steps: int = 1,
    steps_taken: StepsTaken = "remaining",
) -> Tensor:
    """Moves points along the flow from ``start_time`` to 1. One step is exact if u is exact.

    Args:
        average_velocity: u(x_t, t, s).
        x: Points at ``start_time``, float [B, ...].
        start_time: Time in [0, 1], one for all, or one per element, float [B].
        num_steps: Number of equal steps from 0 to 1.
        steps_taken: Steps that a later start takes. See ``solver.StepsTaken``.

    Returns:
        Points at t = 1, of x's shape. A point that starts at 1 stays where it is.
    """
    times = step_times(start_time, num_steps, steps_taken, x)
    if isinstance(times, Tensor):
        times_SB = times
    else:
        times_SB = device_constant(times, x.device, x.dtype)[:, None].expand(-1, len(x))
    for t_B, s_B in pairwise(times_SB.unbind()):
        x = x + broadcast_time(s_B - t_B, x) * average_velocity(x, t_B, s_B)
    return x
