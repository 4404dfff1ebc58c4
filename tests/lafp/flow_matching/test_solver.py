import math

import pytest
import torch

from lafp.flow_matching.solver import integrate

MEAN, STD = 2.0, 0.5


def scale_at(t):
    """Standard deviation at time t of the flow from N(0, 1) to N(MEAN, STD^2)."""
    return ((1 - t) ** 2 + (t * STD) ** 2).sqrt()


def gaussian_velocity(x, t):
    """The marginal velocity field of that flow, in closed form."""
    t = t[:, None]
    rate = (t * STD**2 - (1 - t)) / scale_at(t) ** 2
    return MEAN + rate * (x - t * MEAN)


def solved_from(start_time, num_steps, solver):
    x_0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    start = torch.as_tensor(start_time, dtype=torch.float64).expand(9)[:, None]
    x_start = start * MEAN + scale_at(start) * x_0
    x_1 = integrate(
        gaussian_velocity, x_start, start_time=start_time, num_steps=num_steps, solver=solver
    )
    return (x_1 - (MEAN + STD * x_0)).abs().max().item()


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
@pytest.mark.parametrize("start_time", [0.0, 0.3, 0.9])
def test_flow_between_gaussians_ends_where_its_closed_form_does(solver, start_time):
    assert solved_from(start_time, 400, solver) < 5e-3


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_halving_the_step_shrinks_the_error_by_the_order_of_the_solver(solver, order):
    def error(num_steps):
        x = torch.ones(1, 1, dtype=torch.float64)
        end = integrate(
            lambda x, t: 2 * t[:, None] * x, x, start_time=0.2, num_steps=num_steps, solver=solver
        )
        return abs(end.item() - math.exp(1 - 0.2**2))

    assert math.log2(error(40) / error(80)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("steps_taken", ["remaining", "all", "one"])
@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_start_times_per_element_equal_one_solve_each(solver, steps_taken):
    starts = torch.tensor([0.0, 0.25, 0.8, 1.0])
    x = torch.randn(4, 1)
    how = {"num_steps": 3, "solver": solver, "steps_taken": steps_taken}
    together = integrate(gaussian_velocity, x, start_time=starts, **how)
    for i, start in enumerate(starts.tolist()):
        alone = integrate(gaussian_velocity, x[i : i + 1], start_time=start, **how)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun"])
def test_one_step_is_exact_on_a_straight_path(solver):
    x_0, x_1 = torch.randn(2, 6, 3)
    ends = integrate(lambda x, t: x_1 - x_0, x_0, num_steps=1, solver=solver)
    torch.testing.assert_close(ends, x_1)


@pytest.mark.parametrize("start_time", [1.0, torch.ones(3)])
def test_a_point_at_the_end_stays_where_it_is(start_time):
    x = torch.randn(3, 2)
    ends = integrate(gaussian_velocity, x, start_time=start_time, num_steps=4)
    assert torch.equal(ends, x)


@pytest.mark.parametrize(
    ("start_time", "num_steps", "message"),
    [
        (0.0, 0, "num_steps must be at least 1"),
        (1.2, 4, r"start_time must be in \[0, 1\], got 1.2"),
        (torch.zeros(3), 4, r"got shape \(3,\)"),
    ],
)
def test_impossible_solves_are_refused(start_time, num_steps, message):
    with pytest.raises(ValueError, match=message):
        integrate(gaussian_velocity, torch.zeros(2, 1), start_time=start_time, num_steps=num_steps)


@pytest.mark.parametrize(
    ("steps_taken", "start_time", "evaluated_at"),
    [
        ("remaining", 0.0, [0.0, 0.25, 0.5, 0.75]),
        ("remaining", 0.5, [0.5, 0.75]),
        ("remaining", 0.6, [0.6, 0.75]),
        ("all", 0.6, [0.6, 0.7, 0.8, 0.9]),
        ("one", 0.6, [0.6]),
        ("one", 0.0, [0.0]),
    ],
)
def test_a_late_start_spends_its_steps_as_told(steps_taken, start_time, evaluated_at):
    times = []

    def velocity(x_t, t):
        times.append(t[0].item())
        return torch.ones_like(x_t)

    x = torch.zeros(2, 1, dtype=torch.float64)
    end = integrate(velocity, x, start_time=start_time, num_steps=4, steps_taken=steps_taken)
    assert times == pytest.approx(evaluated_at)
    torch.testing.assert_close(end, torch.full_like(x, 1 - start_time))
