import pytest
import torch

from lafp.flow_matching.path import MIN_TIME_LEFT, point_on_path, velocity_towards


def test_path_starts_in_noise_and_ends_in_data():
    x_0, x_1 = torch.randn(2, 5, 3)
    torch.testing.assert_close(point_on_path(x_0, x_1, torch.zeros(5)), x_0)
    torch.testing.assert_close(point_on_path(x_0, x_1, torch.ones(5)), x_1)


def test_velocity_towards_the_data_is_the_same_everywhere_on_the_path():
    x_0, x_1 = torch.randn(2, 64, 4, 2)
    t = torch.linspace(0, 0.95, 64)
    velocity = velocity_towards(x_1, point_on_path(x_0, x_1, t), t)
    torch.testing.assert_close(velocity, x_1 - x_0, atol=1e-4, rtol=1e-4)


def test_velocity_towards_the_data_stays_finite_at_the_end_of_the_path():
    x_1, x_t = torch.ones(1, 2), torch.zeros(1, 2)
    velocity = velocity_towards(x_1, x_t, torch.ones(1), MIN_TIME_LEFT)
    torch.testing.assert_close(velocity, torch.full((1, 2), 20.0))


@pytest.mark.parametrize("t", [0.0, 0.5, 0.97, 0.999])
def test_one_step_to_the_end_of_the_path_arrives_at_the_predicted_data(t):
    x_1, x_t = torch.randn(2, 8, 4)
    for time in (t, torch.full((8,), t)):
        arrived = x_t + (1 - t) * velocity_towards(x_1, x_t, time)
        torch.testing.assert_close(arrived, x_1, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t_shape", [(4, 1), (3,), (1,)])
def test_time_of_the_wrong_shape_is_rejected_not_broadcast(t_shape):
    x = torch.zeros(4, 4)
    with pytest.raises(ValueError, match=r"t of shape \[B\]"):
        point_on_path(x, x, torch.rand(t_shape))
