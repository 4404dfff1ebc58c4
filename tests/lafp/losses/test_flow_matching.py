import pytest
import torch

from lafp.losses.flow_matching import flow_matching_loss

VELOCITY = {"prediction": "velocity", "loss_space": "velocity"}


def test_loss_is_zero_for_the_true_velocity():
    x_0, x_1, t = torch.randn(4, 3, 8), torch.randn(4, 3, 8), torch.rand(4)
    loss = flow_matching_loss(lambda x_t, t: x_1 - x_0, x_0, x_1, t, **VELOCITY)
    assert loss.item() == 0.0


def test_velocity_field_is_evaluated_on_the_straight_path():
    x_0, x_1, t = torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([0.25, 0.75])
    seen = {}
    flow_matching_loss(lambda x_t, t: seen.setdefault("x_t", x_t), x_0, x_1, t, **VELOCITY)
    torch.testing.assert_close(seen["x_t"], torch.tensor([[0.25], [0.75]]))


def test_time_of_the_wrong_shape_is_rejected_not_broadcast():
    x = torch.zeros(4, 4)
    with pytest.raises(ValueError, match=r"t of shape \[B\]"):
        flow_matching_loss(lambda x_t, t: x_t, x, x, torch.rand(4, 1), **VELOCITY)


def test_marginal_velocity_of_gaussians_is_a_minimum():
    """Flow matching regresses on the conditional mean, here known: N(0, 1) to N(2, 0.5^2)."""
    torch.manual_seed(0)
    x_0, x_1, t = torch.randn(20_000, 1), 2 + 0.5 * torch.randn(20_000, 1), torch.rand(20_000)

    def velocity(x_t, t, error):
        t = t[:, None]
        rate = (t * 0.25 - (1 - t)) / ((1 - t) ** 2 + 0.25 * t**2)
        return 2 + (rate + error) * (x_t - t * 2) + error

    def loss(error):
        return flow_matching_loss(lambda x_t, t: velocity(x_t, t, error), x_0, x_1, t, **VELOCITY)

    assert loss(-0.2) > loss(0.0) < loss(0.2)


@pytest.mark.parametrize("loss_space", ["velocity", "x"])
def test_what_is_predicted_changes_no_loss_away_from_the_end(loss_space):
    x_0, x_1, t = torch.randn(64, 5), torch.randn(64, 5), 0.95 * torch.rand(64)
    weight = torch.randn(5, 5)

    def velocity(x_t, t):
        return x_t @ weight + t[:, None]

    def data(x_t, t):
        return x_t + (1 - t[:, None]) * velocity(x_t, t)

    torch.testing.assert_close(
        flow_matching_loss(data, x_0, x_1, t, prediction="x", loss_space=loss_space),
        flow_matching_loss(velocity, x_0, x_1, t, prediction="velocity", loss_space=loss_space),
    )


def test_the_loss_in_x_weighs_errors_of_velocity_by_the_time_left_squared():
    x_0, x_1, t = torch.randn(64, 5), torch.randn(64, 5), torch.rand(64)
    error = torch.randn(64, 5)
    how = {"prediction": "velocity", "loss_space": "x"}
    loss = flow_matching_loss(lambda x_t, t: x_1 - x_0 + error, x_0, x_1, t, **how)
    torch.testing.assert_close(loss, ((1 - t[:, None]) * error).square().mean())


@pytest.mark.parametrize("loss_space", ["velocity", "x"])
def test_the_loss_is_zero_for_the_true_data_at_any_time(loss_space):
    x_0, x_1 = torch.randn(3, 2), torch.randn(3, 2)
    t = torch.tensor([0.0, 0.99, 1.0])
    how = {"prediction": "x", "loss_space": loss_space}
    assert flow_matching_loss(lambda x_t, t: x_1, x_0, x_1, t, **how).item() == 0.0
