"""Fixed-step solvers of dx/dt = v(x, t), from any start time to t = 1."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lafp.flow.path import broadcast_time

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""v(x_t [B, ...], t [B]) -> velocity of x_t's shape. Close over conditioning."""
SolverName = Literal["euler", "midpoint", "heun"]
"""Evaluations of the velocity field per step: euler 1, midpoint 2, heun 2 (order 1, 2, 2)."""


def integrate(
    velocity_field: VelocityField,
    x: Tensor,
    *,
    start_time: float | Tensor = 0.0,
    num_steps: int,
    solver: SolverName = "euler",
) -> Tensor:
    """Carries points along the flow from ``start_time`` to 1 in equal steps.

    Args:
        velocity_field: v(x_t, t).
        x: Points at ``start_time``, float [B, ...].
        start_time: In [0, 1]; one for all, or one per element, float [B]. A point that starts at
            1 stays where it is, exactly.
        num_steps: Steps from ``start_time`` to 1, wherever that starts.
        solver: See ``SolverName``.

    Returns:
        Points at t = 1, of x's shape.

    Raises:
        ValueError: ``num_steps`` is less than 1, or ``start_time`` is outside [0, 1].
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    if isinstance(start_time, Tensor):
        return _integrate_each(velocity_field, x, start_time, num_steps, _STEPS[solver])
    if not 0.0 <= start_time <= 1.0:
        raise ValueError(f"start_time must be in [0, 1], got {start_time}.")
    if start_time == 1.0:
        return x
    # The hot path of acting: one small tensor of times, no other work per step.
    dt = (1.0 - start_time) / num_steps
    times = torch.linspace(start_time, 1.0, num_steps + 1, dtype=x.dtype, device=x.device)
    for i in range(num_steps):
        x = _STEPS[solver](velocity_field, x, times[i].expand(len(x)), dt)
    return x


def _integrate_each(
    velocity_field: VelocityField, x: Tensor, start_B: Tensor, num_steps: int, step: "_Step"
) -> Tensor:
    if start_B.shape != x.shape[:1] or start_B.min() < 0 or start_B.max() > 1:
        raise ValueError(
            f"start_time must hold {len(x)} values in [0, 1], got shape {tuple(start_B.shape)} "
            f"from {start_B.min():g} to {start_B.max():g}."
        )
    start_B = start_B.to(x)
    dt_B = (1.0 - start_B) / num_steps
    for i in range(num_steps):
        x = step(velocity_field, x, start_B + i * dt_B, dt_B)
    return x


def _euler(v: VelocityField, x: Tensor, t: Tensor, dt: float | Tensor) -> Tensor:
    return x + _scaled(v(x, t), dt)


def _midpoint(v: VelocityField, x: Tensor, t: Tensor, dt: float | Tensor) -> Tensor:
    return x + _scaled(v(x + _scaled(v(x, t), dt / 2), t + dt / 2), dt)


def _heun(v: VelocityField, x: Tensor, t: Tensor, dt: float | Tensor) -> Tensor:
    first = v(x, t)
    return x + _scaled(first + v(x + _scaled(first, dt), t + dt), dt / 2)


def _scaled(velocity: Tensor, dt: float | Tensor) -> Tensor:
    return velocity * (broadcast_time(dt, velocity) if isinstance(dt, Tensor) else dt)


_Step = Callable[[VelocityField, Tensor, Tensor, float | Tensor], Tensor]
_STEPS: dict[str, _Step] = {"euler": _euler, "midpoint": _midpoint, "heun": _heun}
