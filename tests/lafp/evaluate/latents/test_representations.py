"""What is probed beside z: its right value where that is known."""

import pytest
import torch

from lafp.config import ConfigError
from lafp.evaluate.latents.representations import (
    DINOV2_DIFFERENCE,
    EMBEDDING,
    ENCODER_DIFFERENCE,
    ENCODER_FRAME,
    ENCODER_PAIR,
    PIXEL_DIFFERENCE,
    encoder_representation,
    methods,
    pixel_difference,
    representation,
)
from lafp.lam import load_lam
from lafp.types import Window
from tests.synthetic_dinov2 import write_dinov2
from tests.synthetic_lam import write_lam


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    return load_lam(write_lam(str(tmp_path_factory.mktemp("lam"))))


@pytest.fixture
def window():
    torch.manual_seed(0)
    obs, next_obs = torch.rand(2, 5, 3, 16, 16) * 2 - 1
    steps = torch.ones(5, dtype=torch.int64)
    return Window(obs=obs, next_obs=next_obs, future_obs=next_obs, offset_steps=steps)


def test_the_difference_of_pixels_is_of_the_newest_frames_and_small():
    obs = torch.zeros(2, 6, 64, 48)
    next_obs = obs.clone()
    next_obs[:, :3] = 9.0  # an older frame, which is not looked at
    next_obs[0, 3, :2, :2] = 1.0
    found = pixel_difference(obs, next_obs)
    assert found.shape == (2, 3 * 32 * 32) and found[1].abs().sum() == 0
    assert found[0].nonzero().numel() > 0 and found.max() <= 1


def test_every_method_has_features_and_only_the_embedding_has_none_of_two_frames(lam, window):
    for method in methods(None, None):
        found = representation(method, lam, None, seed=0)
        assert len(found.of_window(window)) == 5
        assert (found.of_pair is None) == (method == EMBEDDING)
        if found.of_pair is not None:
            pair = found.of_pair(window.obs, window.next_obs)
            torch.testing.assert_close(pair, found.of_window(window))
    assert methods(None, None)[-1] == PIXEL_DIFFERENCE


def test_frozen_features_of_one_frame_twice_differ_by_nothing(lam, window, tmp_path):
    folder = write_dinov2(tmp_path)
    assert methods(str(folder), None)[-1] == DINOV2_DIFFERENCE
    of_pair = representation(DINOV2_DIFFERENCE, lam, str(folder), seed=0).of_pair
    forth, back = of_pair(window.obs, window.next_obs), of_pair(window.next_obs, window.obs)
    torch.testing.assert_close(forth, -back)
    assert forth.abs().max() > 1e-3
    assert of_pair(window.obs, window.obs).abs().max() < 1e-5


def test_a_folder_without_weights_is_named(lam, tmp_path):
    with pytest.raises(ConfigError, match="No DINOv2 at"):
        representation(DINOV2_DIFFERENCE, lam, str(tmp_path), seed=0)


def test_a_frozen_encoder_has_its_pair_its_difference_and_its_controls(lam, window, tmp_path):
    folder, names = str(write_dinov2(tmp_path)), methods(None, str(tmp_path))
    assert names == [ENCODER_PAIR, ENCODER_DIFFERENCE, ENCODER_FRAME, PIXEL_DIFFERENCE]
    pair, difference, frame, pixels = (
        encoder_representation(name, folder, lam.obs, lam.device).of_window(window)
        for name in names
    )
    now, then = pair.chunk(2, dim=1)
    torch.testing.assert_close(now, frame)
    torch.testing.assert_close(then - now, difference)
    torch.testing.assert_close(pixels, pixel_difference(window.obs, window.next_obs))
