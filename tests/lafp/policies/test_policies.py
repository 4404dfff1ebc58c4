"""What latent_bc and latent_flow do alike, and where they differ."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lafp.config import ConfigError, config_from_dict
from lafp.finished.load import load_policy
from lafp.finished.saved_model import save_model
from lafp.policies import POLICIES
from lafp.types import ObsSpec

OBS = ObsSpec(height_px=8, width_px=8, frame_stack=1, fps=10)
ENCODER = {"name": "small_cnn", "channels": [8], "embed_dim": 16}
NAMES = sorted(POLICIES.names())
VELOCITY = {"prediction": "velocity", "loss_space": "velocity"}


def make(name, latent_action_dim=2, **config):
    policy_class = POLICIES.get(name)
    cfg = {"name": name, "encoder": ENCODER, "hidden_dims": [64, 64], **config}
    torch.manual_seed(0)
    return policy_class(config_from_dict(policy_class.Config, cfg), OBS, latent_action_dim)


def train(policy, draw, num_steps=600):
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3, fused=True)
    for _ in range(num_steps):
        optimizer.zero_grad()
        policy(*draw(32)).loss.backward()
        optimizer.step()
    return policy.eval().requires_grad_(False)


def grey(level):
    """Flat images, [B] -> [B, 3, 8, 8]."""
    return level[:, None, None, None].expand(-1, 3, 8, 8)


def draw_from_line(num):
    """z is a known function of the observation, in units far from standard."""
    level = torch.rand(num) * 2 - 1
    return grey(level), torch.stack([100 + 10 * level, -5 * level], dim=1)


def draw_from_fork(num):
    """One observation, two modes: z = (30, 1) or (30, -1)."""
    side = torch.randint(0, 2, (num,)) * 2.0 - 1
    return grey(torch.zeros(num)), torch.stack([torch.full((num,), 30.0), side], dim=1)


@pytest.fixture(scope="module")
def forked():
    options = {"latent_bc": {}, "latent_flow": {"num_solver_steps": 16}, "latent_mean_flow": {}}
    # A head that predicts data needs more updates to tell the modes apart than one for velocities.
    return {name: train(make(name, **options[name]), draw_from_fork, 1200) for name in NAMES}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("latent_bc", {}),
        ("latent_flow", {}),
        ("latent_flow", {"loss_space": "velocity", "solver": "midpoint"}),
        ("latent_flow", VELOCITY),
        ("latent_flow", {"time": {"name": "logit_normal"}, "solver": "heun", **VELOCITY}),
        ("latent_flow", {"time": {"name": "beta"}, "num_time_draws": 2}),
        ("latent_flow", {"coupling": "minibatch_ot"}),
        ("latent_mean_flow", {}),
    ],
)
def test_a_policy_learns_a_function_of_the_observation_in_the_lams_units(name, config):
    num_steps = 600 if name == "latent_mean_flow" else 300  # of which every fourth is of a flow
    policy = train(make(name, **config), draw_from_line, num_steps)
    obs, z = draw_from_line(200)
    chosen, _ = policy.act(obs)
    assert chosen.dtype == torch.float32
    assert (F.mse_loss(chosen, z) / z.var(dim=0).mean()).item() < 0.05


def test_cloning_averages_the_modes_of_a_fork(forked):
    z, _ = forked["latent_bc"].act(grey(torch.zeros(4)))
    assert z[:, 1].abs().max() < 0.3


def test_a_flow_keeps_both_modes_of_a_fork(forked):
    z, _ = forked["latent_flow"].act(grey(torch.zeros(1000)))
    assert (z[:, 1].abs() > 0.5).float().mean() > 0.9
    assert (z[:, 1] > 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def in_one_step(flow):
    """The number of steps is no part of the training."""
    flow = copy.deepcopy(flow)
    flow.cfg = replace(flow.cfg, num_solver_steps=1)
    return flow


def test_coupled_noise_keeps_modes_in_one_step_where_independent_noise_averages_them(forked):
    coupled = train(make("latent_flow", coupling="minibatch_ot"), draw_from_fork)
    kept = {}
    for coupling, policy in (("independent", forked["latent_flow"]), ("minibatch_ot", coupled)):
        z, _ = in_one_step(policy).act(grey(torch.zeros(1000)))
        kept[coupling] = (z[:, 1].abs() > 0.5).float().mean().item()
    assert kept["independent"] < 0.3 and kept["minibatch_ot"] > 0.6


def test_one_step_of_mean_flow_keeps_both_modes_where_one_step_of_a_flow_averages_them(forked):
    near_a_mode, to_one_side = {}, {}
    for name in ("latent_flow", "latent_mean_flow"):
        z, _ = in_one_step(forked[name]).act(grey(torch.zeros(1000)))
        near_a_mode[name] = ((z[:, 1].abs() - 1).abs() < 0.5).float().mean().item()
        to_one_side[name] = (z[:, 1] > 0).float().mean().item()
    assert near_a_mode["latent_flow"] < 0.1 and near_a_mode["latent_mean_flow"] > 0.5
    assert to_one_side["latent_mean_flow"] == pytest.approx(0.5, abs=0.25)


def test_mean_flow_is_anchored_in_one_step(forked):
    obs, z_idm = draw_from_fork(500)
    policy, calls = forked["latent_mean_flow"], []
    handle = policy.head.register_forward_hook(lambda *_: calls.append(1))
    z = policy.anchored_from_embedding(policy.encode(obs), z_idm, 0.5)
    handle.remove()
    assert policy.cfg.num_solver_steps == len(calls) == 1
    assert (z[:, 1].sign() == z_idm[:, 1]).float().mean() > 0.8


def test_an_anchor_picks_the_demonstrated_mode(forked):
    obs, z_idm = draw_from_fork(1000)
    kept = {}
    for anchor_time in (0.0, 0.5, 0.9):
        z = forked["latent_flow"].anchored_from_embedding(
            forked["latent_flow"].encode(obs), z_idm, anchor_time
        )
        kept[anchor_time] = (z[:, 1].sign() == z_idm[:, 1]).float().mean().item()
    assert kept[0.0] == pytest.approx(0.5, abs=0.1)
    assert kept[0.5] > 0.8 and kept[0.9] > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_anchor_time_one_is_the_raw_latent(forked, name):
    obs, z_idm = draw_from_fork(10)
    z = forked[name].anchored_from_embedding(forked[name].encode(obs), z_idm, 1.0)
    torch.testing.assert_close(z, z_idm)


@pytest.mark.parametrize("name", NAMES)
def test_anchor_time_zero_is_what_the_policy_does_by_itself(forked, name):
    obs, z_idm = draw_from_fork(10)
    anchored = forked[name].anchored_from_embedding(
        forked[name].encode(obs), z_idm, 0.0, torch.Generator().manual_seed(3)
    )
    alone, _ = forked[name].act(obs, None, torch.Generator().manual_seed(3))
    torch.testing.assert_close(anchored, alone)


def test_anchor_times_may_differ_per_element(forked):
    obs, z_idm = draw_from_fork(3)
    times = torch.tensor([0.0, 0.5, 1.0])
    z = forked["latent_flow"].anchored_from_embedding(
        forked["latent_flow"].encode(obs), z_idm, times, torch.Generator().manual_seed(0)
    )
    half = forked["latent_flow"].anchored_from_embedding(
        forked["latent_flow"].encode(obs), z_idm, 0.5, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(z[1], half[1])
    torch.testing.assert_close(z[2], z_idm[2])


@pytest.mark.parametrize("anchor_time", [0.5, torch.zeros(3)])
def test_cloning_has_nothing_between_its_prediction_and_the_demonstration(forked, anchor_time):
    obs, z_idm = draw_from_fork(3)
    with pytest.raises(ValueError, match="latent_bc supports anchor_time 0"):
        forked["latent_bc"].anchored_from_embedding(
            forked["latent_bc"].encode(obs), z_idm, anchor_time
        )


@pytest.mark.parametrize("name", NAMES)
def test_statistics_move_in_training_only(name):
    policy = make(name).eval()
    policy(*draw_from_line(8))
    assert policy.standardizer.count.item() == 0
    policy.train()(*draw_from_line(8))
    assert policy.standardizer.count.item() == 8


def test_policies_share_encoder_and_size_of_head():
    sizes = {name: sum(p.numel() for p in make(name).parameters()) for name in NAMES}
    # The flow's head also reads x_t and the time: 64 x (2 + 8) weights; mean flow's two times.
    assert sizes["latent_flow"] - sizes["latent_bc"] == 640
    assert sizes["latent_mean_flow"] - sizes["latent_bc"] == 640 + 512
    torch.manual_seed(0)
    first, *others = (make(name).encoder.state_dict() for name in NAMES)
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_policy_acts_alike(tmp_path, name):
    policy = make(name)
    policy(*draw_from_line(32))
    specs = {"obs": OBS, "latent_action_dim": 2}
    save_model(
        str(tmp_path), kind="policy", config=policy.cfg, specs=specs, module=policy, metrics={}
    )
    loaded = load_policy(str(tmp_path))
    obs, _ = draw_from_line(5)
    z, _ = loaded.act(obs, None, torch.Generator().manual_seed(0))
    expected, _ = policy.eval().act(obs, None, torch.Generator().manual_seed(0))
    assert torch.equal(z, expected)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_options_of_acting_can_be_changed_when_a_policy_is_loaded(tmp_path):
    policy = make("latent_flow")
    specs = {"obs": OBS, "latent_action_dim": 2}
    save_model(
        str(tmp_path), kind="policy", config=policy.cfg, specs=specs, module=policy, metrics={}
    )
    loaded = load_policy(str(tmp_path), overrides={"noise": "persistent", "num_solver_steps": 1})
    assert (loaded.cfg.noise, loaded.cfg.num_solver_steps) == ("persistent", 1)
    with pytest.raises(ConfigError, match="num_solver_step"):
        load_policy(str(tmp_path), overrides={"num_solver_step": 1})
