"""The MeanFlow identity on a path whose flow is known: Gaussian noise to Gaussian data."""

import pytest
import torch

from lafp.flow_matching.mean_flow import average_velocity_and_target, integrate_average
from lafp.flow_matching.path import point_on_path
from lafp.losses.flow_matching import mean_flow_loss

STD = 3.0
"""Of the data, around 0; independent of the noise."""


def scale(t):
    """Standard deviation of x_t."""
    return ((1 - t).square() + (STD * t).square()).sqrt()


def velocity(x, t):
    """v(x, t) of the flow x_s = x_t scale(s) / scale(t), which carries N(0, 1) to N(0, STD^2)."""
    return x * ((STD**2 * t - (1 - t)) / scale(t).square())[:, None]


def average_velocity(x, t, s):
    """u(x, t, s) = (x_s - x_t) / (s - t), for s > t."""
    return x * ((scale(s) / scale(t) - 1) / (s - t))[:, None]


def intervals(num, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = 0.9 * torch.rand(num, generator=generator, dtype=torch.float64)
    s = t + (1 - t) * (0.05 + 0.95 * torch.rand(num, generator=generator, dtype=torch.float64))
    return t, s


def test_the_exact_average_velocity_meets_its_own_target():
    t, s = intervals(500)
    x_t = torch.randn(500, 2, dtype=torch.float64)
    u, target = average_velocity_and_target(average_velocity, x_t, t, s, velocity(x_t, t))
    torch.testing.assert_close(u, target, rtol=1e-9, atol=1e-9)


def test_the_target_from_pairs_of_noise_and_data_is_right_on_average():
    num = 200_000
    t, s = (
        torch.full((num,), 0.4, dtype=torch.float64),
        torch.full((num,), 0.9, dtype=torch.float64),
    )
    x_0, x_1 = (torch.randn(num, 1, dtype=torch.float64) for _ in range(2))
    x_1 = STD * x_1
    x_t = point_on_path(x_0, x_1, t)
    u, target = average_velocity_and_target(average_velocity, x_t, t, s, x_1 - x_0)
    assert (target - u).square().mean() > 1, "each target is far off"
    # Least squares over all pairs finds the slope of the exact u.
    slope = (target * x_t).sum() / x_t.square().sum()
    assert slope.item() == pytest.approx((u[0] / x_t[0]).item(), rel=0.02)


def test_without_an_interval_the_target_is_the_velocity():
    x_t, v, t = torch.randn(5, 2), torch.randn(5, 2), torch.rand(5)
    _, target = average_velocity_and_target(lambda x, t, s: x.sin(), x_t, t, t, v)
    assert torch.equal(target, v)


def test_the_target_has_no_gradient_and_the_model_has():
    weight = torch.tensor(0.5, requires_grad=True)
    t, s = intervals(4)
    x_t = torch.randn(4, 2, dtype=torch.float64)
    u, target = average_velocity_and_target(lambda x, t, s: weight * x, x_t, t, s, x_t)
    assert not target.requires_grad
    (gradient,) = torch.autograd.grad(u.sum(), weight)
    assert gradient.item() == pytest.approx(x_t.sum().item())


@pytest.mark.parametrize("num_steps", [1, 2, 5])
@pytest.mark.parametrize("start", [0.0, 0.3])
def test_one_step_of_an_exact_average_velocity_is_the_whole_flow(num_steps, start):
    x = torch.randn(50, 2, dtype=torch.float64)
    arrived = integrate_average(average_velocity, x, start_time=start, num_steps=num_steps)
    factor = STD / scale(torch.tensor(start, dtype=torch.float64))
    torch.testing.assert_close(arrived, factor * x)


def test_points_may_start_at_times_of_their_own():
    x, start = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.0, 0.5, 1.0])

    def finite(x, t, s):
        return torch.where((s > t)[:, None], average_velocity(x, t, s), 0.0)

    arrived = integrate_average(finite, x, start_time=start.double())
    factor = STD / scale(start.double())
    torch.testing.assert_close(arrived, factor[:, None] * x)
    assert torch.equal(arrived[2], x[2])


def test_samples_weigh_less_the_larger_their_error_and_absent_elements_not_at_all():
    t = torch.zeros(2)
    x_0, x_1 = torch.zeros(2, 2), torch.tensor([[1.0, 5.0], [10.0, 7.0]])
    is_present = torch.tensor([[True, False], [True, False]])

    def loss(power):
        return mean_flow_loss(
            lambda x, t, s: 0 * x, x_0, x_1, t, t, power=power, is_present=is_present
        ).item()

    assert loss(0) == pytest.approx((1 + 100) / 2)
    assert loss(0.5) == pytest.approx((1 + 10) / 2, rel=1e-3)
    assert loss(1) == pytest.approx(1, rel=1e-3)
