"""Fixed-step solvers of dx/dt = v(x, t), from any start time to t = 1."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lafp.flow.path import broadcast_time

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""v(x_t [B, ...], t [B]) -> velocity of x_t's shape. Close over conditioning."""
Velocity = Callable[[Tensor], Tensor]
"""v(x_t) at one time."""
SolverName = Literal["euler", "midpoint", "heun"]
"""Evaluations of the velocity field per step: euler 1, midpoint 2, heun 2 (order 1, 2, 2)."""


@runtime_checkable
class TimedVelocityField(Protocol):
    """A velocity field that can prepare, once, what it needs of the times of a solve."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """See ``VelocityField``."""
        ...

    def at_times(self, times: Sequence[float]) -> Sequence[Velocity]:
        """v( . , t) for each t, with all points at that time."""
        ...


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
    offsets, step = _SOLVERS[solver]
    if isinstance(start_time, Tensor):
        _check_start(start_time, x)
        start_B = start_time.to(x)
        dt_B = (1.0 - start_B) / num_steps
        dt: float | Tensor = broadcast_time(dt_B, x)
        times_B = [start_B + (i + o) * dt_B for i in range(num_steps) for o in offsets]
        velocities: Sequence[Velocity] = [partial(_at, velocity_field, t_B) for t_B in times_B]
    else:
        if not 0.0 <= start_time <= 1.0:
            raise ValueError(f"start_time must be in [0, 1], got {start_time}.")
        if start_time == 1.0:
            return x
        dt = (1.0 - start_time) / num_steps
        times = [start_time + (i + o) * dt for i in range(num_steps) for o in offsets]
        velocities = _at_times(velocity_field, times, x)
    for i in range(0, len(velocities), len(offsets)):
        x = step(velocities[i : i + len(offsets)], x, dt)
    return x


def _check_start(start_B: Tensor, x: Tensor) -> None:
    if start_B.shape != x.shape[:1] or start_B.min() < 0 or start_B.max() > 1:
        raise ValueError(
            f"start_time must hold {len(x)} values in [0, 1], got shape {tuple(start_B.shape)} "
            f"from {start_B.min():g} to {start_B.max():g}."
        )


def _at(velocity_field: VelocityField, t_B: Tensor, x: Tensor) -> Tensor:
    return velocity_field(x, t_B)


def _at_times(
    velocity_field: VelocityField, times: Sequence[float], x: Tensor
) -> Sequence[Velocity]:
    """The field at times that all points share: the hot path of acting."""
    if isinstance(velocity_field, TimedVelocityField):
        return velocity_field.at_times(times)
    shared = torch.tensor(times, dtype=x.dtype, device=x.device).unbind()
    return [partial(_at, velocity_field, t.expand(len(x))) for t in shared]


def _euler(v: Sequence[Velocity], x: Tensor, dt: float | Tensor) -> Tensor:
    return x + v[0](x) * dt


def _midpoint(v: Sequence[Velocity], x: Tensor, dt: float | Tensor) -> Tensor:
    return x + v[1](x + v[0](x) * (dt / 2)) * dt


def _heun(v: Sequence[Velocity], x: Tensor, dt: float | Tensor) -> Tensor:
    first = v[0](x)
    return x + (first + v[1](x + first * dt)) * (dt / 2)


_Step = Callable[[Sequence[Velocity], Tensor, float | Tensor], Tensor]
_SOLVERS: dict[str, tuple[tuple[float, ...], _Step]] = {
    "euler": ((0.0,), _euler),
    "midpoint": ((0.0, 0.5), _midpoint),
    "heun": ((0.0, 1.0), _heun),
}
"""Where within a step the field is evaluated, and the step made of it."""
