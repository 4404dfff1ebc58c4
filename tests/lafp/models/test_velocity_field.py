import torch

from lafp.models.velocity_field import VelocityField


def test_condition_and_point_make_one_linear_map_of_their_concatenation():
    field = VelocityField(3, 5, (16,))
    x_t, t, embedding = torch.randn(4, 3), torch.rand(4), torch.randn(4, 5)
    weight = torch.cat([field.from_point.weight, field.from_embedding.weight], dim=1)
    features = torch.cos(torch.pi * t[:, None] * torch.arange(1, 9))
    hidden = torch.cat([x_t, features, embedding], dim=1) @ weight.T + field.from_embedding.bias
    expected = field.head(hidden)
    torch.testing.assert_close(field(x_t, t, field.condition(embedding)), expected)


def test_hidden_layers_are_as_configured():
    field = VelocityField(3, 5, (16, 32, 8))
    assert field(torch.randn(4, 3), torch.rand(4), torch.randn(4, 16)).shape == (4, 3)
    widths = [m.out_features for m in field.head if isinstance(m, torch.nn.Linear)]
    assert widths == [32, 8, 3]


def test_noise_and_data_are_told_apart_at_the_ends_of_time():
    field = VelocityField(1, 1, (16,))
    x_t, condition = torch.zeros(2, 1), torch.zeros(2, 16)
    start, end = field(x_t, torch.tensor([0.0, 1.0]), condition)
    assert not torch.allclose(start, end)


def test_prepared_times_give_what_the_whole_field_gives():
    field = VelocityField(3, 5, (16, 16))
    x, condition = torch.randn(4, 3), field.condition(torch.randn(4, 5))
    times = (0.0, 0.25, 0.9)
    for t, velocity in zip(times, field.at_times(times, condition), strict=True):
        torch.testing.assert_close(velocity(x), field(x, torch.full((4,), t), condition))
