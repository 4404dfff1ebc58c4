import pytest
import torch

from lafp.losses.optical_flow import end_point_error, optical_flow_loss


def test_predicting_no_motion_costs_one_at_any_scale():
    flow = torch.randn(8, 2, 4, 4)
    for scale in (1.0, 20.0):
        loss = optical_flow_loss(torch.zeros_like(flow), scale * flow)
        assert loss.item() == pytest.approx(1)
    assert optical_flow_loss(flow, flow) == 0


def test_still_clips_do_not_blow_up():
    assert optical_flow_loss(torch.full((2, 2, 4, 4), 0.01), torch.zeros(2, 2, 4, 4)) < 0.02


def test_the_end_point_error_is_the_mean_distance_in_pixels():
    flow = torch.zeros(1, 2, 2, 2)
    predicted = torch.tensor([3.0, 4.0])[None, :, None, None].expand(1, 2, 2, 2)
    assert end_point_error(predicted, flow) == 5


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2, 4, 4\) and \(1, 2, 8, 8\)"):
        optical_flow_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8))
