"""Patches of pixels, and of a tiny random DINOv2."""

import pytest
import torch
import torch.nn.functional as F

from lafp.config import ConfigError, config_from_dict
from lafp.finished.saved_model import save_model
from lafp.lam import load_lam
from lafp.models.patches import Dinov2Patches, Dinov2PatchesConfig, PixelPatches, PixelPatchesConfig
from lafp.objectives.lapa import Lapa, LapaConfig
from tests.synthetic_windows import moving_square_windows, obs_spec


def test_pixel_patches_are_the_pixels_and_come_together_again():
    patches = PixelPatches(PixelPatchesConfig(patch_px=4), obs_spec(frame_stack=2, size_px=8))
    obs = torch.rand(3, 6, 8, 8)
    features = patches(obs)
    assert features.shape == (3, patches.num_patches, patches.input_dim) == (3, 4, 96)
    lower_left = obs[:, :, 4:, :4].flatten(1)
    torch.testing.assert_close(features[:, 2], lower_left)
    torch.testing.assert_close(patches.to_frame(patches.newest(features)), obs[:, -3:])


def test_a_patch_that_does_not_divide_the_frame_is_refused():
    with pytest.raises(ValueError, match="patch_px 5 does not divide frames of 24x24"):
        PixelPatches(PixelPatchesConfig(patch_px=5), obs_spec())


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> str:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("dinov2"))
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**size, image_size=28, patch_size=14)).save_pretrained(folder)
    return folder


def test_dinov2_patches_are_its_normalized_patch_features_in_their_places(dinov2):
    patches = Dinov2Patches(
        Dinov2PatchesConfig(path=dinov2, image_size_px=28), obs_spec(size_px=28)
    )
    obs = torch.rand(2, 3, 28, 28) * 2 - 1
    features = patches(obs)
    assert features.shape == (2, patches.num_patches, patches.input_dim) == (2, 4, 16)
    torch.testing.assert_close(features.mean(-1), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(-1, correction=0), torch.ones(2, 4), atol=1e-3, rtol=0)
    changed = obs.clone()
    changed[:, :, 14:, :14] = 1.0
    difference = (patches(changed) - features).norm(dim=-1).mean(0)
    assert difference.argmax() == 2  # the lower left one


def lapa(path: str, **changes: str) -> LapaConfig:
    raw = changes | {
        "num_action_tokens": 2,
        "latent_action_dim": 4,
        "patches": {"name": "dinov2", "path": path, "image_size_px": 28},
        "idm": {"width": 16, "depth": 1, "num_heads": 2},
        "fdm": {"width": 16, "depth": 1, "num_heads": 2},
        "bottleneck": {"name": "fsq", "levels": [3, 3]},
    }
    return config_from_dict(LapaConfig, raw)


def test_a_lam_on_frozen_features_trains_and_is_exported_without_them(dinov2, tmp_path):
    cfg, obs = lapa(dinov2), obs_spec()
    torch.manual_seed(0)
    objective = Lapa(cfg, obs)
    window = moving_square_windows(16, 0)
    optimizer = torch.optim.Adam(objective.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = objective(window).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not hasattr(objective, "predict_next_frame")  # features are no picture
    save_model(
        str(tmp_path), kind="lam", config=cfg, specs={"obs": obs}, module=objective, metrics={}
    )
    lam = load_lam(str(tmp_path))
    assert sum(v.numel() for v in lam.objective.state_dict().values()) < 20_000
    expected = objective.eval().infer_latent_action(window.obs, window.next_obs)
    torch.testing.assert_close(lam.infer_latent_action(window.obs, window.next_obs), expected)


def test_each_picture_of_a_step_goes_through_dinov2_once(dinov2):
    cfg, window, sizes = lapa(dinov2, target="residual"), moving_square_windows(16, 0), []
    objective = Lapa(cfg, obs_spec())
    objective.patches._frozen[0].register_forward_hook(
        lambda *args: sizes.append(len(args[-1].last_hidden_state))
    )
    objective(window)
    assert sizes == [32]
    sizes.clear()
    objective.measured(window)
    assert sizes == [32]


def test_nothing_goes_through_dinov2_to_measure_no_scale(dinov2):
    objective = Lapa(lapa(dinov2), obs_spec())
    objective.patches._frozen[0].register_forward_hook(lambda *_: pytest.fail("it ran"))
    assert objective.measured(moving_square_windows(16, 0)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "/nowhere"}, "No DINOv2 at /nowhere"),
        ({"image_size_px": 30}, r"multiple of DINOv2's patch \(14 px\), got 30"),
    ],
)
def test_what_is_no_dinov2_is_refused(dinov2, settings, message):
    with pytest.raises(ValueError, match=message):
        Dinov2Patches(Dinov2PatchesConfig(**{"path": dinov2} | settings), obs_spec())


def test_another_dinov2_at_the_path_of_a_trained_lam_is_refused(dinov2, tmp_path):
    from transformers import Dinov2Model

    state = Lapa(lapa(dinov2), obs_spec()).state_dict()
    other = Dinov2Model.from_pretrained(dinov2)
    other.layernorm.bias.data += 1
    other.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="trained with another DINOv2"):
        Lapa(lapa(str(tmp_path)), obs_spec()).load_state_dict(state)


def test_features_do_not_depend_on_their_frames_place_in_the_batch(dinov2):
    patches = Dinov2Patches(Dinov2PatchesConfig(path=dinov2, image_size_px=28), obs_spec())
    obs = F.interpolate(torch.rand(4, 3, 6, 6), 24) * 2 - 1
    torch.testing.assert_close(patches(obs)[2:3], patches(obs[2:3]), atol=1e-5, rtol=1e-4)
