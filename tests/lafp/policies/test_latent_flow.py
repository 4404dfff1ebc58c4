"""How a flow policy acts: noise, state, solver, cost."""

from dataclasses import replace

import pytest
import torch

from lafp.config import config_from_dict
from lafp.policies.latent_flow import LatentFlow
from lafp.policies.latent_mean_flow import LatentMeanFlow
from lafp.types import ObsSpec

OBS = ObsSpec(height_px=8, width_px=8, frame_stack=2, fps=10)


def make(**config):
    cfg = {"encoder": {"name": "small_cnn", "channels": [8], "embed_dim": 16}, **config}
    torch.manual_seed(0)
    policy = LatentFlow(config_from_dict(LatentFlow.Config, cfg), OBS, 3)
    policy(torch.rand(16, 6, 8, 8), 5 + 2 * torch.randn(16, 3))
    return policy.eval().requires_grad_(False)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_seed_gives_one_episode():
    policy, obs = make(), torch.rand(4, 6, 8, 8)
    episodes = []
    for _ in range(2):
        generator, state, actions = seeded(), None, []
        for _ in range(3):
            z, state = policy.act(obs, state, generator)
            actions.append(z)
        episodes.append(torch.stack(actions))
    assert torch.equal(*episodes)
    assert not torch.equal(episodes[0], policy.act(obs, None, seeded(1))[0].expand(3, -1, -1))


def test_fresh_noise_differs_from_step_to_step():
    policy, obs, generator = make(noise="fresh"), torch.rand(4, 6, 8, 8), seeded()
    first, state = policy.act(obs, None, generator)
    second, _ = policy.act(obs, state, generator)
    assert not torch.isclose(first, second).any()


def test_persistent_noise_makes_an_episode_deterministic():
    policy, obs, generator = make(noise="persistent"), torch.rand(4, 6, 8, 8), seeded()
    first, state = policy.act(obs, None, generator)
    second, _ = policy.act(obs, state, generator)
    other_episode, _ = policy.act(obs, None, generator)
    assert torch.equal(first, second)
    assert not torch.isclose(first, other_episode).any()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"solver": "heun"}, "solver; got velocity, velocity and heun"),
        ({"loss_space": "x"}, "solver; got velocity, x and euler"),
        ({"interval_share": 0.0}, r"interval_share must be in \(0, 1\], got 0.0"),
        ({"loss_power": -1.0}, "loss_power must not be negative, got -1.0"),
    ],
)
def test_impossible_settings_of_mean_flow_are_refused(config, message):
    raw = {"encoder": {"name": "small_cnn"}, **config}
    with pytest.raises(ValueError, match=message):
        config_from_dict(LatentMeanFlow.Config, raw)


def play(policy, num_steps, batch_size=4, state=None, seed=0):
    """Noise and latent action of every step, [T, B, Z], and the last state."""
    obs, generator, steps = torch.zeros(batch_size, 6, 8, 8), seeded(seed), []
    for _ in range(num_steps):
        z, state = policy.act(obs, state, generator)
        steps.append((state.noise, z))
    noise, z = (torch.stack(column) for column in zip(*steps, strict=True))
    return noise, z, state


def test_held_noise_is_kept_for_its_steps_and_then_renewed():
    noise, z, _ = play(make(noise="held", noise_hold_steps=3), 7)
    for values in (noise, z):
        is_kept = (values[1:] == values[:-1]).all(dim=-1).all(dim=-1).tolist()
        assert is_kept == [True, True, False, True, True, False]
    assert not torch.isclose(noise[2], noise[3]).any()


def test_each_row_counts_the_steps_of_its_own_noise():
    policy = make(noise="held", noise_hold_steps=3)
    _, _, state = play(policy, 1)
    begun_earlier = replace(state, noise_age_steps=torch.tensor([1, 2, 3, 3]))
    noise, _, state = play(policy, 3, state=begun_earlier, seed=1)
    noise = torch.cat([begun_earlier.noise[None], noise])
    is_kept = (noise[1:] == noise[:-1]).all(dim=-1)
    assert is_kept.T.tolist() == [
        [True, True, False],
        [True, False, True],
        [False, True, True],
        [False, True, True],
    ]
    assert state.noise_age_steps.tolist() == [1, 2, 3, 3]


@pytest.mark.parametrize(("hold_steps", "alike"), [(1, "fresh"), (9, "persistent")])
def test_held_noise_lies_between_fresh_and_persistent(hold_steps, alike):
    held, _, _ = play(make(noise="held", noise_hold_steps=hold_steps), 5)
    expected, _, _ = play(make(noise=alike), 5)
    assert torch.equal(held, expected)


def test_warm_start_begins_on_the_way_to_the_previous_latent_action():
    policy, obs = make(noise="warm_start", warm_start_time=0.5), torch.rand(4, 6, 8, 8)
    first, state = policy.act(obs, None, seeded())
    second, _ = policy.act(obs, state, seeded(1))
    expected = policy.anchored_from_embedding(policy.encode(obs), first, 0.5, seeded(1))
    torch.testing.assert_close(second, expected)


@pytest.mark.parametrize(
    ("config", "evaluations"),
    [
        ({"num_solver_steps": 1}, 1),
        ({"num_solver_steps": 4}, 4),
        ({"num_solver_steps": 4, "solver": "midpoint"}, 8),
    ],
)
def test_the_encoder_runs_once_per_observation_whatever_the_solver_does(config, evaluations):
    policy = make(**config)
    calls = {"encoder": 0, "head": 0}
    for name, module in (("encoder", policy.encoder), ("head", policy.head.head)):
        module.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    policy.act(torch.rand(4, 6, 8, 8))
    assert calls == {"encoder": 1, "head": evaluations}


def test_training_encodes_each_observation_once_for_all_time_draws():
    policy = make(num_time_draws=8).train()
    sizes = []
    for module in (policy.encoder, policy.head):
        module.register_forward_hook(lambda m, inputs, output: sizes.append(len(output)))
    policy(torch.rand(5, 6, 8, 8), torch.randn(5, 3))
    assert sizes == [5, 40]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_solver_steps": 0}, "num_solver_steps must be at least 1, got 0"),
        ({"noise_hold_steps": 0}, "noise_hold_steps must be at least 1, got 0"),
        ({"num_time_draws": 0}, "num_time_draws must be at least 1, got 0"),
        ({"warm_start_time": 1.0}, r"warm_start_time must be in \[0, 1\), got 1.0"),
        ({"solver": "heun"}, "Use solver midpoint"),
        ({"noise": "pink"}, "pink"),
        ({"condition_weight": -1.0}, "condition_weight must not be negative, got -1.0"),
        ({"hidden_dims": []}, "hidden_dims must be one or more positive widths"),
    ],
)
def test_impossible_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make(**config)
