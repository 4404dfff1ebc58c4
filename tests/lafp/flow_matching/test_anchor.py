import pytest
import torch

from lafp.flow_matching.anchor import anchored_point
from lafp.flow_matching.solver import integrate

NUM = 2000


def anchored_sample(velocity, x_0, x_1, anchor_time, **solver):
    return integrate(
        velocity, anchored_point(x_0, x_1, anchor_time), start_time=anchor_time, **solver
    )


def two_point_velocity(x_t, t):
    """Velocity of the flow from N(0, 1) to the points -1 and 1, each with probability 1/2.

    E[x_1 | x_t] = tanh(t x_t / (1 - t)^2) by Bayes' rule; v = (E[x_1 | x_t] - x_t) / (1 - t).
    """
    left = (1 - t)[:, None].clamp_min(1e-3)
    return (torch.tanh(t[:, None] * x_t / left**2) - x_t) / left


def sampled(anchor_time, num_steps=50):
    torch.manual_seed(0)
    x_0 = torch.randn(NUM, 1, dtype=torch.float64)
    x_1 = torch.where(torch.arange(NUM)[:, None] % 2 == 0, -1.0, 1.0).double()
    return anchored_sample(two_point_velocity, x_0, x_1, anchor_time, num_steps=num_steps), x_1


def test_without_an_anchor_the_mode_is_a_coin_flip():
    samples, x_1 = sampled(0.0)
    assert (samples.sign() == x_1).double().mean() == pytest.approx(0.5, abs=0.04)
    torch.testing.assert_close(samples.abs(), torch.ones_like(samples), atol=0.05, rtol=0)


def test_an_anchor_keeps_the_demonstrated_mode_as_often_as_the_closed_form_says():
    """x_tau keeps its sign if tau > -(1 - tau) x_0, so with probability Phi(tau / (1 - tau))."""
    for anchor_time in (0.25, 0.5, 0.7):
        samples, x_1 = sampled(anchor_time)
        kept = torch.distributions.Normal(0, 1).cdf(torch.tensor(anchor_time / (1 - anchor_time)))
        assert (samples.sign() == x_1).double().mean() == pytest.approx(kept.item(), abs=0.03)
        torch.testing.assert_close(samples.abs(), torch.ones_like(samples), atol=0.05, rtol=0)


def test_anchor_time_one_returns_the_demonstration():
    samples, x_1 = sampled(1.0)
    assert torch.equal(samples, x_1)


def test_anchor_times_per_element_equal_one_call_each():
    times = torch.tensor([0.0, 0.4, 1.0])
    x_0, x_1 = torch.randn(2, 3, 1)
    together = anchored_sample(two_point_velocity, x_0, x_1, times, num_steps=4)
    for i in range(3):
        alone = anchored_sample(
            two_point_velocity, x_0[i : i + 1], x_1[i : i + 1], times[i].item(), num_steps=4
        )
        torch.testing.assert_close(together[i : i + 1], alone)


DISTANCE = 6.0
"""Of both modes from 0, in units of the noise: so far that no anchored point changes its mode."""


def mixture_velocity(std):
    """Velocity of the flow from N(0, 1) to N(-6, std^2) and N(6, std^2), each with weight 1/2."""
    means = torch.tensor([-DISTANCE, DISTANCE], dtype=torch.float64)

    def velocity(x_t, t):
        t = t[:, None]
        variance = (1 - t) ** 2 + (t * std) ** 2
        weight = torch.softmax(-((x_t - t * means) ** 2) / (2 * variance), 1)
        x_1 = means + t * std**2 / variance * (x_t - t * means)
        return ((weight * x_1).sum(1, keepdim=True) - x_t) / (1 - t).clamp_min(1e-9)

    return velocity


def gaussian_velocity(std):
    """The same towards one mode, N(0, std^2)."""

    def velocity(x_t, t):
        t = t[:, None]
        return (t * std**2 - (1 - t)) / ((1 - t) ** 2 + (t * std) ** 2) * x_t

    return velocity


@pytest.mark.parametrize(
    ("std", "remaining", "in_shorter_steps"),
    [(0.1, 0.28, 0.54), (0.3, 0.61, 0.79), (0.6, 0.76, 0.87)],
)
def test_anchored_samples_spread_as_deployed_ones_do_on_the_grid_of_deployment(
    std, remaining, in_shorter_steps
):
    """Four Euler steps are too few to reach the true spread; decoders must meet the same error."""
    torch.manual_seed(0)
    num = 50_000
    x_0 = torch.randn(num, 1, dtype=torch.float64)
    deployed = integrate(gaussian_velocity(std), x_0, num_steps=4).std().item() / std
    mode = torch.where(torch.arange(num)[:, None] % 2 == 0, -DISTANCE, DISTANCE)
    x_1 = mode + std * torch.randn(num, 1, dtype=torch.float64)
    spread = {
        steps: (
            anchored_sample(mixture_velocity(std), x_0, x_1, 0.5, num_steps=4, steps_taken=steps)
            - mode
        ).std()
        / std
        for steps in ("remaining", "all")
    }
    assert spread["remaining"] == pytest.approx(remaining, abs=0.01)
    assert spread["remaining"] == pytest.approx(deployed, abs=0.07)
    assert spread["all"] == pytest.approx(in_shorter_steps, abs=0.01)


@pytest.mark.parametrize(
    ("std", "deployed", "remaining", "in_shorter_steps"),
    [(0.1, 0.28, 0.41, 0.62), (0.3, 0.59, 0.69, 0.81), (0.6, 0.70, 0.82, 0.88)],
)
def test_times_between_those_of_the_grid_give_wider_samples_but_less_so_than_shorter_steps(
    std, deployed, remaining, in_shorter_steps
):
    torch.manual_seed(0)
    num = 100_000
    x_0, x_1, times = torch.randn(3, num, 1, dtype=torch.float64)
    times = torch.distributions.Normal(0, 1).cdf(times[:, 0])
    velocity = gaussian_velocity(std)
    spread = {"deployed": integrate(velocity, x_0, num_steps=4).std() / std}
    for steps in ("remaining", "all"):
        samples = anchored_sample(velocity, x_0, std * x_1, times, num_steps=4, steps_taken=steps)
        spread[steps] = samples.std() / std
    expected = {"deployed": deployed, "remaining": remaining, "all": in_shorter_steps}
    assert spread == pytest.approx(expected, abs=0.01)
