"""Policies that predict several latent actions at a time, and execute some of them."""

from dataclasses import replace

import pytest
import torch

from lafp.config import config_from_dict
from lafp.policies import POLICIES
from lafp.types import ObsSpec

OBS = ObsSpec(height_px=8, width_px=8, frame_stack=1, fps=10)
ENCODER = {"name": "small_cnn", "channels": [8], "embed_dim": 16}
NAMES = sorted(POLICIES.names())


def make(name, chunk_steps=3, execute_steps=2, **config):
    policy_class = POLICIES.get(name)
    raw = {"name": name, "encoder": ENCODER, "hidden_dims": [64, 64], **config}
    raw |= {"chunk_steps": chunk_steps, "execute_steps": execute_steps}
    torch.manual_seed(0)
    policy = policy_class(config_from_dict(policy_class.Config, raw), OBS, 2)
    policy(*draw(32, chunk_steps))
    return policy.eval().requires_grad_(False)


def draw(num, chunk_steps):
    """z_{t+i} is a known function of the observation and of i, in units far from standard."""
    level = torch.rand(num) * 2 - 1
    ahead = torch.arange(chunk_steps)
    z = torch.stack([100 + 10 * level[:, None] + 5 * ahead, -5 * level[:, None] * (1 + ahead)], 2)
    return level[:, None, None, None].expand(-1, 3, 8, 8), z


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_executed_step_by_step_and_then_replaced(name):
    policy, obs = make(name, 3, 2), torch.rand(6, 4, 3, 8, 8)
    generator, state, actions = seeded(), None, []
    for step in range(6):
        z, state = policy.act(obs[step], state, generator)
        actions.append(z)
    generator, chunks = seeded(), []
    for step in range(6):  # one chunk's noise is drawn at every step, needed or not
        chunks.append(policy.chunk_from_embedding(policy.encode(obs[step]), None, generator)[0])
    for step in range(6):
        torch.testing.assert_close(actions[step], chunks[step - step % 2][:, step % 2])


@pytest.mark.parametrize("name", NAMES)
def test_each_row_counts_the_steps_of_its_own_plan(name):
    policy, obs = make(name, 4, 3), torch.rand(3, 3, 8, 8)
    _, state = policy.act(obs, None, seeded())
    state = replace(state, chunk_age_steps=torch.tensor([1, 2, 3]))
    z, next_state = policy.act(obs, state, seeded(1))
    torch.testing.assert_close(z[0], state.chunk[0, 1])
    torch.testing.assert_close(z[1], state.chunk[1, 2])
    torch.testing.assert_close(z[2], policy.act(obs, None, seeded(1))[0][2])
    assert next_state.chunk_age_steps.tolist() == [2, 3, 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_chunk_is_learned_step_by_step(name):
    policy = make(name, 3, 1).train().requires_grad_(True)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(600):
        optimizer.zero_grad()
        policy(*draw(32, 3)).loss.backward()
        optimizer.step()
    obs, z = draw(200, 3)
    chunk, _ = policy.eval().chunk_from_embedding(policy.encode(obs), None)
    assert chunk.shape == (200, 3, 2)
    for step in range(3):
        error = (chunk[:, step] - z[:, step]).square().mean()
        assert error < 0.1 * z[:, step].var(0).mean()


@pytest.mark.parametrize("name", NAMES)
def test_steps_beyond_the_clip_count_in_no_loss(name):
    """Steps that are never there leave their part of the head without a gradient."""
    policy = make(name, 3, 1).train().requires_grad_(True)
    obs, z = draw(16, 3)
    has_step = torch.tensor([True, True, False]).expand(16, -1)
    policy(obs, z, has_step).loss.backward()
    last_layer = [m for m in policy.head.modules() if isinstance(m, torch.nn.Linear)][-1]
    is_trained = last_layer.bias.grad != 0
    assert is_trained.tolist() == [True, True, True, True, False, False]


@pytest.mark.parametrize("name", NAMES)
def test_all_steps_there_is_the_same_as_no_mask(name):
    policy, (obs, z) = make(name), draw(16, 3)
    losses = []
    for has_step in (None, torch.ones(16, 3, dtype=torch.bool)):
        torch.manual_seed(0)
        losses.append(policy(obs, z, has_step).loss)
    torch.testing.assert_close(*losses)


def test_a_chunk_is_anchored_whole():
    policy, (obs, z) = make("latent_flow"), draw(4, 3)
    torch.testing.assert_close(policy.anchored_from_embedding(policy.encode(obs), z, 1.0), z)
    half = policy.anchored_from_embedding(policy.encode(obs), z, 0.5, seeded())
    assert half.shape == z.shape and not torch.isclose(half, z).any()


def test_warm_start_begins_on_the_way_to_what_is_left_of_the_plan():
    options = {"warm_start_time": 0.5, "num_solver_steps": 2}
    policy = make("latent_flow", 3, 2, noise="warm_start", **options)
    obs = torch.rand(2, 3, 8, 8)
    _, state = policy.act(obs, None, seeded())
    _, state = policy.act(obs, state, seeded())
    z, _ = policy.act(obs, state, seeded(1))
    rest = state.chunk[:, [2, 2, 2]]  # two of its three steps are taken; the last stands again
    one_step = make("latent_flow", 3, 2, num_solver_steps=1)
    expected = one_step.anchored_from_embedding(one_step.encode(obs), rest, 0.5, seeded(1))
    torch.testing.assert_close(z, expected[:, 0])


@pytest.mark.parametrize("name", NAMES)
def test_chunks_of_projected_latent_actions_come_out_in_the_lams_units(name):
    policy = make(name, 3, 2, latent_projection={"name": "pca", "dim": 1})
    _, z = draw(64, 3)
    policy.projection.fit(z[:, 0])
    assert policy.point_dim == 3
    assert policy.denormalize(policy.standardize(z)).shape == (64, 3, 2)
    assert policy.act(torch.rand(5, 3, 8, 8))[0].shape == (5, 2)


@pytest.mark.parametrize(("chunk_steps", "execute_steps"), [(0, 1), (2, 3), (2, 0)])
def test_impossible_chunks_are_refused(chunk_steps, execute_steps):
    with pytest.raises(ValueError, match="execute_steps must be from 1 to chunk_steps"):
        make("latent_bc", chunk_steps, execute_steps)
