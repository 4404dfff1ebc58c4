import pytest
import torch

from lafp.models.fdm import UNetConfig, UNetFdm
from lafp.types import ObsSpec


@pytest.mark.parametrize("size_px", [(48, 48), (30, 50), (17, 23)])
@pytest.mark.parametrize("is_half_size", [False, True])
def test_the_prediction_has_the_frames_size_or_half_of_it(size_px, is_half_size):
    height, width = size_px
    obs = ObsSpec(height_px=height, width_px=width, frame_stack=2, fps=10.0)
    fdm = UNetFdm(UNetConfig(channels=(4, 8, 8)), obs, 5, is_half_size)
    expected = ((height + 1) // 2, (width + 1) // 2) if is_half_size else size_px
    assert fdm(torch.zeros(2, 6, height, width), torch.zeros(2, 5)).shape == (2, 3, *expected)


def test_the_prediction_depends_on_the_latent_action_everywhere():
    torch.manual_seed(0)
    obs = ObsSpec(height_px=16, width_px=16, frame_stack=1, fps=10.0)
    fdm = UNetFdm(UNetConfig(channels=(4, 8)), obs, 5, is_half_size=False)
    frames = torch.rand(1, 3, 16, 16)
    change = fdm(frames, torch.zeros(1, 5)) - fdm(frames, torch.ones(1, 5))
    assert (change.abs() > 0).all()
