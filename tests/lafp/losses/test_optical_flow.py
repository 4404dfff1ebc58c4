import torch

from lafp.losses.optical_flow import end_point_error


def test_the_end_point_error_is_the_mean_distance_in_pixels():
    flow = torch.zeros(1, 2, 2, 2)
    predicted = torch.tensor([3.0, 4.0])[None, :, None, None].expand(1, 2, 2, 2)
    assert end_point_error(predicted, flow) == 5
