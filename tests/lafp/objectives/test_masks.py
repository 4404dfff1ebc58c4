"""Masks of the agent weigh the loss of every latent action model."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lafp.losses.forward_dynamics import frame_loss, residual_loss
from lafp.losses.masked import as_weighted, weighted_means
from lafp.models.encoders import SmallCnnConfig
from lafp.models.patches import PixelPatches, PixelPatchesConfig
from lafp.objectives.base import MaskConfig
from lafp.objectives.laom import LaomConfig
from lafp.train.metrics.means import Means
from lafp.types import Window
from tests.lafp.objectives.test_objectives import CONFIGS, LAOF, LAOM, build, lapa, lapo
from tests.synthetic_windows import moving_square_windows, obs_spec

MASK = MaskConfig()
MASKED = {
    "lapo-mask": lapo(mask=MASK),
    "lapo-residual-mask": lapo(target="residual", mask=MASK),
    "lapo-half-mask": replace(CONFIGS["lapo-difference"], mask=MASK),
    "laof-mask": replace(LAOF, mask=MASK),
    "laom-mask": replace(LAOM, mask=MASK),
    "lapa-mask": lapa(mask=MASK),
    "lapa-frame-mask": lapa(target="frame", mask=MASK),
}
every_masked = pytest.mark.parametrize("cfg", MASKED.values(), ids=MASKED.keys())


def distracted(num_windows: int = 6) -> Window:
    """Squares before noise, which differs in each frame and covers no square."""
    window = moving_square_windows(num_windows, 0, max_offset_steps=2)
    generator = torch.Generator().manual_seed(1)

    def with_noise(obs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        noise = 2 * torch.rand(obs.shape, generator=generator) - 1
        return torch.where(mask > 0, obs, noise)

    return replace(
        window,
        obs=with_noise(window.obs, torch.maximum(window.next_mask, window.future_mask)),
        next_obs=with_noise(window.next_obs, window.next_mask),
        future_obs=with_noise(window.future_obs, window.future_mask),
        optical_flow=window.optical_flow + 3,
    )


def grads_of_outputs(objective, window: Window) -> dict[str, torch.Tensor]:
    """The gradients that reach what the model predicts, by the name of the module."""
    outputs = {}

    def keep(name):
        def hook(_, __, output):
            output.retain_grad()
            outputs[name] = output

        return hook

    for name in ("fdm", "optical_flow_decoder"):
        if hasattr(objective, name):
            getattr(objective, name).register_forward_hook(keep(name))
    objective(window).loss.backward()
    return {name: output.grad for name, output in outputs.items()}


def share(mask: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.adaptive_avg_pool2d(mask, (height, width))


@every_masked
def test_no_gradient_comes_from_outside_of_the_agent(cfg):
    objective, window = build(cfg), distracted()
    grads = grads_of_outputs(objective, window)
    for name, grad in grads.items():
        if cfg.name == "lapa":
            patches = PixelPatches(PixelPatchesConfig(patch_px=6), obs_spec())
            weight = patches.weights(window.future_mask)
        elif cfg.name == "laom":
            weight = share(window.next_mask, *objective.encoder.map_size)
            grad = grad.unflatten(1, (-1, *objective.encoder.map_size))
        else:
            weight = share(window.next_mask, *grad.shape[2:])
        weight = weight.expand_as(grad)
        assert 0.05 < (weight == 0).float().mean() < 0.95
        assert (grad[weight == 0] == 0).all(), name
        assert (grad[weight > 0] != 0).float().mean() > 0.9, name
    assert grads


@every_masked
def test_a_mask_of_all_pixels_changes_nothing(cfg):
    window = distracted()
    full = replace(
        window,
        next_mask=torch.ones_like(window.next_mask),
        future_mask=torch.ones_like(window.future_mask),
    )
    plain = build(replace(cfg, mask=None)).eval()
    plain_out = plain(window)
    for windows, mask in ((full, MASK), (window, MaskConfig(background_weight=1.0))):
        objective = build(replace(cfg, mask=mask)).eval()
        objective.load_state_dict(plain.state_dict())
        torch.manual_seed(0)
        out = objective(windows)
        torch.testing.assert_close(out.loss, plain_out.loss)
        assert out.metrics.keys() == plain_out.metrics.keys()
        for name, value in plain_out.metrics.items():
            torch.testing.assert_close(out.metrics[name], value, equal_nan=True)


@every_masked
def test_windows_without_masks_count_in_full(cfg):
    window = replace(distracted(), next_mask=None, future_mask=None)
    plain, objective = (build(replace(cfg, mask=mask)).eval() for mask in (None, MASK))
    objective.load_state_dict(plain.state_dict())
    torch.testing.assert_close(objective(window).loss, plain(window).loss)


@every_masked
def test_windows_that_show_no_agent_do_not_count(cfg):
    window, objective = distracted(4), build(cfg).eval()
    hidden = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(-1, 1, 1, 1)
    some = replace(
        window, next_mask=window.next_mask * hidden, future_mask=window.future_mask * hidden
    )
    rows = torch.tensor([0, 2])
    shown = Window(**{name: None if v is None else v[rows] for name, v in vars(window).items()})
    for name in ("fdm_loss", "fdm_error", "copy_error"):
        torch.testing.assert_close(objective(some).metrics[name], objective(shown).metrics[name])
    none = replace(some, next_mask=0 * some.next_mask, future_mask=0 * some.future_mask)
    out = objective(none)
    out.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())
    means = Means(torch.device("cpu"))
    means.add([objective(shown), out])
    found = means.read()
    for name in {"fdm_loss", "fdm_error", "copy_error", "optical_flow_loss"} & out.metrics.keys():
        assert found[name] == pytest.approx(float(objective(shown).metrics[name]))
    only = Means(torch.device("cpu"))
    only.add([out])
    assert not {"fdm_loss", "fdm_error", "optical_flow_error_px"} & only.read().keys()


def test_weighted_losses_do_not_depend_on_the_size_of_the_mask():
    """An error of 0.5 everywhere costs the same, however many pixels count."""
    frame = torch.zeros(3, 3, 8, 8)
    sizes = torch.zeros(3, 1, 8, 8)
    sizes[0, :, :1, :1] = sizes[1, :, :4] = sizes[2] = 1
    for weight in (sizes, 0.1 + 0.9 * sizes):
        assert frame_loss(frame + 0.5, frame, weight) == pytest.approx(0.25)
        assert residual_loss(frame + 0.5, frame, weight) == pytest.approx(0.25)


def test_the_weighted_mean_is_that_of_its_formula():
    values, weight = torch.rand(4, 3, 5, 5), torch.rand(4, 1, 5, 5)
    wanted = (values * weight).sum((1, 2, 3)) / (3 * weight.sum((1, 2, 3)))
    torch.testing.assert_close(weighted_means(values, weight), wanted)
    squares = as_weighted(values, weight).square().flatten(1).mean(1)
    torch.testing.assert_close(squares, weighted_means(values.square(), weight))


def test_the_typical_change_is_that_of_the_agent():
    """Noise behind the square would make the unit of the residual many times as large."""
    clean, noisy = moving_square_windows(64, 0), distracted(64)
    scales = {}
    for name, mask, window in (
        ("clean", MASK, clean),
        ("masked", MASK, noisy),
        ("unmasked", None, noisy),
    ):
        objective = build(lapo(target="residual", mask=mask))
        objective.fit_scales([window])
        scales[name] = float(objective.idm.change_scale.typical)
    assert scales["masked"] == pytest.approx(scales["clean"], rel=0.01)
    assert scales["unmasked"] > 1.2 * scales["clean"]


def test_an_encoder_that_ends_in_a_vector_has_no_cells_to_weigh():
    cfg = LaomConfig(encoder=SmallCnnConfig(), mask=MASK)
    with pytest.raises(ValueError, match="small_cnn ends in a vector"):
        build(cfg)


@pytest.mark.parametrize("wrong", [{"background_weight": -0.1}, {"fraction": 0.0}])
def test_wrong_settings_are_errors(wrong):
    with pytest.raises(ValueError, match="must be in"):
        MaskConfig(**wrong)
