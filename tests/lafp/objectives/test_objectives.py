"""What holds for every latent action model."""

from dataclasses import replace

import pytest
import torch

from lafp.data.augment import AugmentConfig
from lafp.evaluate.probes.linear import ProbeData, fit_probe, score_probe
from lafp.models.bottlenecks.base import NoBottleneckConfig
from lafp.models.bottlenecks.fsq import FsqConfig
from lafp.models.bottlenecks.layernorm_noise import LayerNormNoiseConfig
from lafp.models.bottlenecks.vq import VqConfig
from lafp.models.encoders import SmallCnnConfig, StridedResnetConfig
from lafp.models.fdm import UNetConfig
from lafp.models.idm import HeadConfig
from lafp.models.patch_transformer import TransformerConfig
from lafp.models.patches import PixelPatchesConfig
from lafp.objectives import OBJECTIVES
from lafp.objectives.base import Objective, latent_metrics
from lafp.objectives.laof import LaofConfig
from lafp.objectives.laom import LaomConfig, embedding_metrics
from lafp.objectives.lapa import LapaConfig
from lafp.objectives.lapo import LapoConfig
from tests.synthetic_windows import fit_to, moving_square_windows, obs_spec


def lapo(**changes) -> LapoConfig:
    settings = {
        "latent_action_dim": 8,
        "encoder": SmallCnnConfig(channels=(16, 16), embed_dim=64),
        "fdm": UNetConfig(channels=(8, 16)),
        "bottleneck": NoBottleneckConfig(),
    }
    return LapoConfig(**settings | changes)


def lapa(**changes) -> LapaConfig:
    settings = {
        "num_action_tokens": 4,
        "latent_action_dim": 32,
        "patches": PixelPatchesConfig(patch_px=6),
        "idm": TransformerConfig(width=64, depth=2, num_heads=2),
        "fdm": TransformerConfig(width=64, depth=2, num_heads=2),
        "target": "residual",
        "bottleneck": VQ,
    }
    return LapaConfig(**settings | changes)


VQ = VqConfig(num_codebooks=1, num_discrete_latents=4, num_codes=16, decay=0.9)
RESIDUAL = {"target": "residual", "is_target_half_size": True}
LAOM = LaomConfig(
    latent_action_dim=32,
    encoder=StridedResnetConfig(channels=(8, 16), scale=1, num_res_blocks=1, has_output_norm=True),
    idm=HeadConfig(hidden_dim=128),
    fdm=HeadConfig(hidden_dim=128),
    target_ema_decay=0.99,
    augment=AugmentConfig(kinds=()),
)
LAOF = LaofConfig(
    **vars(lapo(bottleneck=LayerNormNoiseConfig(noise_std=0.3), **RESIDUAL))
    | {"name": "laof", "optical_flow_height_px": 6, "optical_flow_width_px": 6}
)
CONFIGS = {
    "lapo": lapo(),
    "lapo-difference": lapo(
        idm_input="difference", bottleneck=LayerNormNoiseConfig(noise_std=0.3), **RESIDUAL
    ),
    "lapo-vq": lapo(bottleneck=VQ, **RESIDUAL),
    "lapo-fsq": lapo(bottleneck=FsqConfig(levels=(5, 5, 5, 5)), **RESIDUAL),
    "laof": LAOF,
    "lapa-vq": lapa(),
    "lapa-fsq": lapa(latent_action_dim=16, bottleneck=FsqConfig(levels=(5, 5, 5, 5))),
    "laom": LAOM,
    "laom-difference": replace(LAOM, idm_input="difference"),
    "lapa-difference": lapa(idm_input="difference"),
}
every_config = pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS.keys())
# One of each objective and kind of bottleneck. The loss of each of the others falls on a toy batch.
LEARN_IN_THE_GATE = ("lapo", "lapo-vq", "lapo-fsq", "laof", "lapa-vq", "laom")
every_config_learns = pytest.mark.parametrize(
    "cfg",
    [
        pytest.param(cfg, id=name, marks=[] if name in LEARN_IN_THE_GATE else pytest.mark.slow)
        for name, cfg in CONFIGS.items()
    ],
)


def build(cfg, frame_stack: int = 1, seed: int = 0) -> Objective:
    torch.manual_seed(seed)
    objective = OBJECTIVES.get(cfg.name)(cfg, obs_spec(frame_stack))
    fit_to(objective, moving_square_windows(64, 0, frame_stack))
    return objective


def train(
    objective: Objective,
    num_steps: int,
    lr: float,
    batch_size: int = 64,
    is_one_batch: bool = False,
    spread_px: float = 4.0,
) -> list[float]:
    """Losses of a short training on squares that move at random, or on one batch of them."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr)
    losses = []
    for step in range(num_steps):
        seed = 0 if is_one_batch else step
        stack = objective.obs.frame_stack
        window = moving_square_windows(batch_size, seed, stack, start_spread_px=spread_px)
        out = objective(objective.augment(window))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        objective.after_step()
        losses.append(out.loss.item())
    return losses


@every_config
@pytest.mark.parametrize("frame_stack", [1, 3])
def test_shapes(cfg, frame_stack):
    objective = build(cfg, frame_stack)
    window = moving_square_windows(5, 0, frame_stack, max_offset_steps=4)
    out = objective(objective.augment(window))
    assert out.loss.requires_grad
    assert all(m.ndim == 0 and not m.requires_grad for m in out.metrics.values())
    latent = objective.infer_latent_action(window.obs, window.next_obs)
    assert latent.shape == (5, objective.latent_action_dim) and latent.requires_grad
    embedding = objective.embed(window.obs)
    assert embedding.shape[0] == 5 and embedding.ndim == 2


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in LEARN_IN_THE_GATE])
def test_the_loss_of_one_toy_batch_falls(name):
    losses = train(build(CONFIGS[name]), num_steps=100, lr=3e-3, batch_size=16, is_one_batch=True)
    assert losses[-1] < 0.5 * losses[0]


@every_config_learns
def test_latents_decode_a_known_toy_motion(cfg):
    """Actions that the first frame cannot tell: a probe of z reads them, one of o_t does not.

    Without any bottleneck LAOM's z comes to say where the square *will be*, as that is all that
    its FDM wants to know. Nearly equal starts make that the same as the motion.
    """
    objective = build(cfg)
    if cfg.name == "laom":
        spread_px = 1.0
        train(objective, num_steps=100, lr=5e-4, batch_size=32, spread_px=spread_px)
    elif cfg.name == "lapa":  # a transformer has to learn first where things are
        spread_px = 1.0
        train(objective, num_steps=300, lr=1e-3, batch_size=32, spread_px=spread_px)
    else:
        spread_px = 4.0
        train(objective, num_steps=220, lr=2e-3, batch_size=32, spread_px=spread_px)
    objective.eval()
    assert r2(objective, objective.infer_latent_action, spread_px) > (
        0.8 if cfg.name == "lapa" else 0.9
    )
    assert r2(objective, lambda obs, _: objective.embed(obs), spread_px) < 0.1
    if cfg.name in ("lapo", "laof"):
        assert_predicts_better_than_no_change(objective)


@torch.no_grad()
def r2(objective: Objective, features_of, spread_px: float) -> float:
    splits = []
    for seed in (10_000, 10_001):
        stack = objective.obs.frame_stack
        window = moving_square_windows(400, seed, stack, start_spread_px=spread_px)
        data = ProbeData(targets=window.true_action, episode=torch.arange(400) // 8)
        splits.append((features_of(window.obs, window.next_obs), data))
    (fit, fit_data), (held_out, held_out_data) = splits
    return score_probe(fit_probe(fit, fit_data), held_out, held_out_data).r2


@torch.no_grad()
def assert_predicts_better_than_no_change(lapo: Objective) -> None:
    window = moving_square_windows(64, 77)
    latent = lapo.infer_latent_action(window.obs, window.next_obs)
    predicted = lapo.predict_next_frame(window.obs, latent)
    assert predicted.abs().max() <= 1
    frame, next_frame = lapo._resized(window.obs), lapo._resized(window.next_obs)
    assert (predicted - next_frame).square().mean() < 0.5 * (frame - next_frame).square().mean()


@every_config
def test_labels_are_the_same_whatever_else_is_in_the_batch(cfg):
    objective = build(cfg).train()
    window = moving_square_windows(6, 0)
    with torch.no_grad():
        together = objective.infer_latent_action(window.obs, window.next_obs)
        alone = objective.infer_latent_action(window.obs[2:3], window.next_obs[2:3])
    torch.testing.assert_close(together[2:3], alone, atol=1e-4, rtol=1e-4)


@every_config
def test_metrics_of_a_live_latent_are_finite(cfg):
    objective = build(cfg)
    out = objective(moving_square_windows(32, 0))
    assert all(torch.isfinite(m) for m in out.metrics.values())
    assert out.metrics["latent/near_null_share"] < 0.5
    assert out.metrics["latent/effective_rank"] > 1


def test_the_effective_rank_counts_the_directions_of_an_even_spread():
    torch.manual_seed(0)
    latent = torch.zeros(4000, 10)
    latent[:, :3] = torch.randn(4000, 3)
    assert latent_metrics(latent)["latent/effective_rank"].item() == pytest.approx(3, rel=0.02)


def test_a_collapsed_latent_shows_as_all_near_null():
    metrics = latent_metrics(torch.ones(8, 4))
    assert metrics["latent/near_null_share"] == 1
    assert metrics["latent/std"] == 0


def test_a_single_latent_has_a_norm_and_nothing_else():
    metrics = latent_metrics(torch.ones(1, 4))
    assert metrics.pop("latent/norm") == 2
    assert all(torch.isnan(value) for value in metrics.values())


def test_laom_trains_the_encoder_through_the_idm_only_and_never_the_target():
    """The FDM reads the embedding detached: without its use of z, no gradient reaches it."""
    objective = build(LAOM)
    for projection in objective.fdm.mlp.projections:
        projection.weight.data[:, -LAOM.latent_action_dim :] = 0
    objective(moving_square_windows(8, 0)).loss.backward()
    assert all(p.grad.abs().max() == 0 for p in objective.encoder.parameters())
    assert all(p.grad is None for p in objective.target_encoder.parameters())


def test_laom_infers_from_the_future_and_predicts_the_next_observation():
    objective = build(LAOM).eval()
    window = moving_square_windows(8, 0, max_offset_steps=5)
    with torch.no_grad():
        embedding, future = objective.encoder(window.obs), objective.encoder(window.future_obs)
        predicted = objective.fdm(embedding, objective.idm(embedding, future))
        target = objective.target_encoder(window.next_obs)
        loss = objective(window).loss
    torch.testing.assert_close(loss, (predicted - target).square().mean())


def test_laom_lets_the_target_encoder_follow_slowly():
    objective = build(LAOM)
    before = [p.clone() for p in objective.target_encoder.parameters()]
    for parameter in objective.encoder.parameters():
        parameter.data += 1
    objective.after_step()
    for old, new in zip(before, objective.target_encoder.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.01), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["lapo", "laof", "laom", "lapa-vq"])
def test_every_objective_infers_from_the_future_frame(name):
    """With K = 1 that is the next one. A gradient shows which frames z was inferred from."""
    objective = build(CONFIGS[name]).eval()
    window = moving_square_windows(8, 0, max_offset_steps=5)
    with torch.no_grad():
        loss = objective(window).loss
        near = objective(replace(window, future_obs=window.next_obs)).loss
    assert loss != near


def test_a_difference_to_a_copy_of_the_frame_is_no_change_for_laom_and_lapa():
    for cfg in (CONFIGS["laom-difference"], CONFIGS["lapa-difference"]):
        objective = build(cfg).eval()
        window = moving_square_windows(8, 0)
        pair = objective._pair(window.obs, window.obs)
        second = pair[1] if cfg.name == "laom" else pair[:, 1]
        torch.testing.assert_close(second, second[:1].expand_as(second))
        assert objective._pair(window.obs, window.next_obs)[0].shape == pair[0].shape


def test_laom_refuses_differences_of_frames_that_are_distorted_independently():
    with pytest.raises(ValueError, match=r"needs augment.kinds=\[\]"):
        LaomConfig(idm_input="difference")


def test_lapo_with_the_k_and_z_of_laoms_ladder_trains_on_one_batch():
    cfg = lapo(latent_action_dim=1024, encoder=LAOM.encoder)
    objective = build(cfg)
    window = moving_square_windows(8, 0, max_offset_steps=10)
    objective(window).loss.backward()
    assert objective.infer_latent_action(window.obs, window.next_obs).shape == (8, 1024)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_dead_units_and_the_spread_of_an_embedding_are_measured(share):
    torch.manual_seed(0)
    obs, embedding = torch.randn(64, 3, 4, 4), 0.5 * torch.randn(64, 200)
    embedding[:, : int(200 * share)] = 0.7  # does not depend on the observation
    metrics = embedding_metrics(embedding, obs)
    assert metrics["target_dead_share"].item() == pytest.approx(share)
    assert metrics["target_std"].item() == pytest.approx(0.5 * (1 - share), rel=0.05)
    expected = 0.5 * (1 - share) ** 0.5
    assert metrics["target_spread"].item() == pytest.approx(expected, rel=0.05)
    assert embedding_metrics(embedding[:1], obs[:1])["target_dead_share"].isnan()


def test_laom_refuses_a_decay_out_of_range_and_explains_tau():
    with pytest.raises(ValueError, match=r"target_ema_decay must be in \[0, 1\], got 1.5.*tau"):
        LaomConfig(target_ema_decay=1.5)


def test_laof_learns_to_draw_the_flow_from_the_latent_alone():
    objective = build(LAOF)
    windows = moving_square_windows(256, 77, start_spread_px=1.0)
    before = objective.eval()(windows).metrics
    assert 0.5 < before["optical_flow_loss"] < 1.5  # as good as no motion
    train(objective.train(), num_steps=150, lr=2e-3, batch_size=32, spread_px=1.0)
    after = objective.eval()(windows).metrics
    assert after["optical_flow_loss"] < 0.2
    assert after["optical_flow_error_px"] < 0.5 * before["optical_flow_error_px"]


def test_laof_adds_the_weighted_loss_of_optical_flow_to_that_of_lapo():
    window = moving_square_windows(16, 0)
    plain = build(lapo(bottleneck=LayerNormNoiseConfig(noise_std=0.3), **RESIDUAL)).eval()
    objective = build(replace(LAOF, optical_flow_weight=0.5)).eval()
    objective.load_state_dict(plain.state_dict(), strict=False)
    out = objective(window)
    torch.testing.assert_close(
        out.loss, plain(window).loss + 0.5 * out.metrics["optical_flow_loss"]
    )


def test_laof_without_stored_flow_says_how_to_get_it():
    window = replace(moving_square_windows(4, 0), optical_flow=None)
    with pytest.raises(ValueError, match="Preprocess with `optical_flow"):
        build(LAOF)(window)
