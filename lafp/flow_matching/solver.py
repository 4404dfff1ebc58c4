"""Fixed-step solvers of dx/dt = v(x, t), from any start time to t = 1."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from lafp.device_constants import device_constant
from lafp.flow_matching.path import broadcast_time

VelocityField = Callable[[Tensor, Tensor], Tensor]
"""v(x_t [B, ...], t [B]) -> velocity of x_t's shape. A closure holds the condition."""
Velocity = Callable[[Tensor], Tensor]
"""v(x_t) at one fixed time."""
SolverName = Literal["euler", "midpoint", "heun"]
"""Euler evaluates the velocity field once per step, midpoint and heun twice (order 1, 2, 2)."""
StepsTaken = Literal["remaining", "all", "one"]
"""Steps that a solver takes from a start time after 0.

``remaining``: the steps of the grid from 0 that are left, the first one shortened. From a time of
the grid the result is as sharp as a sample from noise, because the steps are the same. From a time
between two it is less sharp, because the first step is shorter than those from noise.
``all``: as many steps as from 0, but shorter. The later the start, the more exact the result.
``one``: a single step, so a single evaluation for Euler.
"""


@runtime_checkable
class TimedVelocityField(Protocol):
    """A velocity field that can compute its time-dependent part once per solve."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """See ``VelocityField``."""
        ...

    def at_times(self, times: Sequence[float]) -> Sequence[Velocity]:
        """Returns v( . , t) for each t, for points that all share that time."""
        ...


def integrate(
    velocity_field: VelocityField,
    x: Tensor,
    *,
    start_time: float | Tensor = 0.0,
    num_steps: int,
    steps_taken: StepsTaken = "remaining",
    solver: SolverName = "euler",
) -> Tensor:
    """Moves points along the flow from ``start_time`` to 1.

    Args:
        velocity_field: v(x_t, t).
        x: Points at ``start_time``, float [B, ...].
        start_time: Time in [0, 1], one for all, or one per element, float [B]. A point that
            starts at 1 does not move.
        num_steps: Number of equal steps from 0 to 1.
        steps_taken: Steps that a later start takes. See ``StepsTaken``.
        solver: See ``SolverName``.

    Returns:
        Points at t = 1, of x's shape.

    Raises:
        ValueError: ``num_steps`` is less than 1, or ``start_time`` is outside [0, 1]. Times in a
            tensor are not checked, because that would wait for the device.
    """
    offsets, step = _SOLVERS[solver]
    times = step_times(start_time, num_steps, steps_taken, x)
    if isinstance(times, Tensor):
        spans = list(zip(times[:-1], times.diff(dim=0), strict=True))
        evaluated_at = [t_B + o * dt_B for t_B, dt_B in spans for o in offsets]
        velocities: Sequence[Velocity] = [partial(_at, velocity_field, t_B) for t_B in evaluated_at]
        lengths: Sequence[float | Tensor] = [broadcast_time(dt_B, x) for _, dt_B in spans]
    else:
        lengths = [end - begin for begin, end in pairwise(times)]
        shared = [t + o * (end - t) for t, end in pairwise(times) for o in offsets]
        velocities = _at_times(velocity_field, shared, x) if shared else []
    for i, dt in enumerate(lengths):
        x = step(velocities[i * len(offsets) : (i + 1) * len(offsets)], x, dt)
    return x


def step_times(
    start_time: float | Tensor, num_steps: int, steps_taken: StepsTaken, x: Tensor
) -> list[float] | Tensor:
    """Computes the times between which a solver steps.

    Args:
        start_time: Time in [0, 1], one for all points or float [B].
        num_steps: Number of equal steps from 0 to 1.
        steps_taken: See ``StepsTaken``.
        x: The points, [B, ...], which determine dtype and device.

    Returns:
        For one start time, the list of times, without steps of length 0. For a start time per
        point, [S + 1, B]; the steps before a point's own start have length 0.

    Raises:
        ValueError: ``num_steps`` is less than 1, or ``start_time`` is outside [0, 1]. Times in a
            tensor are not checked, because that would wait for the device.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}.")
    num_spans = 1 if steps_taken == "one" else num_steps
    # Not a running sum, which rounding would keep from ending at exactly 1.
    grid = [i / num_spans for i in range(num_spans + 1)]
    if isinstance(start_time, Tensor):
        if start_time.shape != x.shape[:1]:
            raise ValueError(
                f"start_time must hold {len(x)} values, got shape {tuple(start_time.shape)}."
            )
        start_B = start_time.to(x)
        grid_S1 = device_constant(grid, x.device, x.dtype)[:, None]
        if steps_taken == "all":
            return start_B + (1 - start_B) * grid_S1
        # Steps before a point's start have length 0, so that points with different starts share the
        # calls.
        return torch.maximum(start_B, grid_S1)
    if not 0.0 <= start_time <= 1.0:
        raise ValueError(f"start_time must be in [0, 1], got {start_time}.")
    if start_time == 1.0:
        return [1.0]
    if steps_taken == "all":
        return [start_time + (1 - start_time) * t for t in grid]
    return [start_time, *(t for t in grid if t > start_time)]


def _at(velocity_field: VelocityField, t_B: Tensor, x: Tensor) -> Tensor:
    return velocity_field(x, t_B)


def _at_times(
    velocity_field: VelocityField, times: Sequence[float], x: Tensor
) -> Sequence[Velocity]:
    """Returns v( . , t) for each time, for points that all share it.

    An agent spends most of its time here, so the work that does not depend on the points is done
    once for all steps.
    """
    if isinstance(velocity_field, TimedVelocityField):
        return velocity_field.at_times(times)
    # One tensor for all times, so that they reach the device in one copy.
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
"""Solver -> positions within a step where the field is evaluated, and the step function."""
