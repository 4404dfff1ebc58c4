"""A frozen DINOv2 as an encoder: what it sees, and what is stored of it."""

import copy
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lafp.config import ConfigError, config_from_dict
from lafp.finished.load import load_policy
from lafp.finished.saved_model import read_card, save_model
from lafp.models.dinov2 import IMAGENET_MEAN, IMAGENET_STD, Dinov2, Dinov2Config
from lafp.objectives.laom import Laom
from lafp.policies.latent_bc import LatentBc
from lafp.train.optim import OptimConfig, build_optimizer
from lafp.types import ObsSpec
from tests.synthetic_dinov2 import write_dinov2

OBS = ObsSpec(height_px=20, width_px=24, frame_stack=2, fps=10)


def encoder_config(folder, **options):
    return {"path": str(folder), "image_size_px": 56, "grid_size": 2, "embed_dim": 8, **options}


def make(folder, **options):
    torch.manual_seed(0)
    return Dinov2(Dinov2Config(**encoder_config(folder, **options)), OBS)


def policy(folder):
    encoder = {"name": "dinov2", **encoder_config(folder)}
    torch.manual_seed(0)
    cfg = config_from_dict(LatentBc.Config, {"encoder": encoder, "hidden_dims": [8]})
    return LatentBc(cfg, OBS, 2)


def save(module, uri):
    specs = {"obs": OBS, "latent_action_dim": 2}
    config = module.cfg
    save_model(uri, kind="policy", config=config, specs=specs, module=module, metrics={})


def test_frames_are_resized_and_normalised_as_dinov2_was_trained(tiny_dinov2):
    encoder = make(tiny_dinov2)
    seen = []
    encoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    # Two flat frames, black and white, have ImageNet's extreme values at any size.
    black, white = -torch.ones(1, 3, 20, 24), torch.ones(1, 3, 20, 24)
    encoder(torch.cat([black, white], dim=1))
    (pixels,) = seen
    assert pixels.shape == (2, 3, 56, 56)
    mean, std = (torch.tensor(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for frame, level in zip(pixels, (0.0, 1.0), strict=True):
        expected = ((level - mean) / std)[:, None, None].expand(3, 56, 56)
        torch.testing.assert_close(frame, expected, atol=1e-5, rtol=1e-5)


def test_features_are_the_class_token_and_the_pooled_patches_of_each_frame(tiny_dinov2):
    from transformers import Dinov2Model

    encoder, backbone = make(tiny_dinov2), Dinov2Model.from_pretrained(tiny_dinov2).eval()
    features = []
    encoder.layers.register_forward_pre_hook(lambda module, args: features.append(args[0]))
    obs = torch.rand(3, 6, 20, 24) * 2 - 1
    encoder(obs)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for frame in range(2):
        pixels = torch.nn.functional.interpolate(
            (obs[:, 3 * frame : 3 * frame + 3] + 1) / 2,
            (56, 56),
            mode="bilinear",
            antialias=True,
        )
        with torch.no_grad():
            tokens = backbone((pixels - mean) / std).last_hidden_state
        # 4 x 4 patches of 14 px in a 2 x 2 grid: each cell is the mean of 2 x 2 patches.
        cells = tokens[:, 1:].view(3, 2, 2, 2, 2, 16).mean(dim=(2, 4))  # [B, row, column, D]
        expected = torch.cat([tokens[:, 0], cells.permute(0, 3, 1, 2).flatten(1)], dim=1)
        width = 5 * 16
        torch.testing.assert_close(
            features[0][:, frame * width : (frame + 1) * width], expected, atol=1e-5, rtol=1e-4
        )


def test_in_bf16_it_says_about_the_same(tiny_dinov2):
    obs = torch.rand(3, 6, 20, 24) * 2 - 1
    exact, rounded = make(tiny_dinov2)(obs), make(tiny_dinov2).bfloat16()(obs.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)


def test_it_exports(tiny_dinov2):
    encoder, obs = make(tiny_dinov2).eval(), torch.rand(3, 6, 20, 24)
    exported = torch.export.export(encoder, (obs,)).module()
    torch.testing.assert_close(exported(obs), encoder(obs))


def test_training_moves_the_head_and_never_dinov2(tiny_dinov2):
    module = policy(tiny_dinov2).train()
    assert not module.encoder.backbone.training
    before = copy.deepcopy(dict(module.encoder.backbone.named_parameters()))
    head_before = module.encoder.layers[0].weight.clone()
    optimizer = build_optimizer(module, OptimConfig(lr=0.1, weight_decay=0.1))
    num_trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert num_trained == sum(p.numel() for p in module.parameters() if p.requires_grad)
    module(torch.rand(4, 6, 20, 24), torch.randn(4, 2)).loss.backward()
    optimizer.step()
    for name, value in module.encoder.backbone.named_parameters():
        assert value.grad is None and torch.equal(value, before[name])
    assert not torch.equal(module.encoder.layers[0].weight, head_before)


def test_orthogonal_initialisation_of_a_lam_leaves_dinov2_as_it_is(tiny_dinov2):
    raw = {"latent_action_dim": 4, "idm": {"hidden_dim": 8}, "fdm": {"hidden_dim": 8}}
    raw |= {"encoder": {"name": "dinov2", **encoder_config(tiny_dinov2)}}
    lam = Laom(config_from_dict(Laom.Config, raw), OBS)
    from transformers import Dinov2Model

    expected = Dinov2Model.from_pretrained(tiny_dinov2).state_dict()
    for encoder in (lam.encoder, lam.target_encoder):
        for name, value in encoder.backbone.state_dict().items():
            assert torch.equal(value, expected[name]), name
    assert not [key for key in lam.state_dict() if "backbone" in key]


def test_a_saved_policy_names_dinov2_instead_of_holding_it(tiny_dinov2, tmp_path):
    module = policy(tiny_dinov2).eval()
    save(module, str(tmp_path))
    stored = load_file(tmp_path / "model.safetensors")
    assert not [key for key in stored if "backbone" in key]
    card = read_card(str(tmp_path), "policy")["frozen_weights"]["encoder"]
    assert card["path"] == str(tiny_dinov2) and card["config"]["hidden_size"] == 16
    assert bytes(stored["encoder.fingerprint"].tolist()).hex() == card["sha256"]
    obs = torch.rand(3, 6, 20, 24)
    loaded = load_policy(str(tmp_path))
    torch.testing.assert_close(loaded.act(obs)[0], module.act(obs)[0])


def test_a_missing_or_other_dinov2_is_named_when_a_model_is_loaded(tmp_path):
    folder = write_dinov2(tmp_path / "dinov2")
    save(policy(folder), str(tmp_path / "policy"))
    shutil.move(folder, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"No DINOv2 at .*dinov2: expected a local folder"):
        load_policy(str(tmp_path / "policy"))
    write_dinov2(folder, seed=1)
    with pytest.raises(ConfigError, match=r"was trained with another DINOv2 \(sha256"):
        load_policy(str(tmp_path / "policy"))


def test_a_folder_of_something_else_is_refused(tmp_path):
    folder = write_dinov2(tmp_path / "dinov2")
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"do not fit its config\.json: 1 are missing"):
        make(folder)
    card = folder / "config.json"
    card.write_text(card.read_text().replace('"model_type": "dinov2"', '"model_type": "vit"'))
    with pytest.raises(ConfigError, match="describes a model of type 'vit', expected 'dinov2'"):
        make(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size_px": 60}, "image_size_px must be a multiple of DINOv2's patch of 14 px"),
        ({"grid_size": 5}, "grid_size must be at most 4"),
        ({"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
    ],
)
def test_impossible_sizes_are_refused(tiny_dinov2, options, message):
    with pytest.raises(ValueError, match=message):
        make(tiny_dinov2, **options)
