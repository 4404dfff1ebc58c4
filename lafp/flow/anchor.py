"""Inference-time interpolation: sample from a flow, but near a given point (the core of LAFP)."""

import torch
from torch import Tensor

from lafp.flow.path import point_on_path
from lafp.flow.solver import SolverName, VelocityField, integrate


def anchored_point(x_0: Tensor, x_1: Tensor, anchor_time: float | Tensor) -> Tensor:
    """x_{tau_a} = (1 - tau_a) x_0 + tau_a x_1, where ``anchored_sample`` starts its solver."""
    t_B = torch.as_tensor(anchor_time, dtype=x_0.dtype, device=x_0.device).expand(len(x_0))
    return point_on_path(x_0, x_1, t_B)


def anchored_sample(
    velocity_field: VelocityField,
    x_0: Tensor,
    x_1: Tensor,
    anchor_time: float | Tensor,
    *,
    num_steps: int,
    solver: SolverName = "euler",
) -> Tensor:
    """Starts the solver between noise and a demonstrated point instead of at pure noise.

        x_{tau_a} = (1 - tau_a) x_0 + tau_a x_1, integrated along v from tau_a to 1

    The result lies on the flow's own distribution, and in the mode of ``x_1``. tau_a = 0 is plain
    sampling, tau_a = 1 returns ``x_1``. Our reading of LAFP's mechanism: ``num_steps`` is spent on
    the rest of the way, however short.

    Args:
        velocity_field: v(x_t, t).
        x_0: Noise, float [B, ...].
        x_1: Demonstrated points (z_IDM), same shape.
        anchor_time: tau_a in [0, 1], one for all or one per element, float [B].
        num_steps: Solver steps from tau_a to 1.
        solver: See ``SolverName``.
    """
    return integrate(
        velocity_field,
        anchored_point(x_0, x_1, anchor_time),
        start_time=anchor_time,
        num_steps=num_steps,
        solver=solver,
    )
