"""The robot's state as an input: what only it tells, only a policy that reads it can learn."""

import pytest
import torch

from lafp.config import config_from_dict
from lafp.policies import POLICIES
from lafp.types import ObsSpec

ENCODER = {"name": "small_cnn", "channels": [4], "embed_dim": 8}


def make(name, state_dim):
    policy_class = POLICIES.get(name)
    raw = {"encoder": ENCODER, "hidden_dims": [32], "inputs": {"state": state_dim > 0}}
    obs = ObsSpec(height_px=8, width_px=8, frame_stack=1, fps=10, state_dim=state_dim)
    torch.manual_seed(0)
    return policy_class(config_from_dict(policy_class.Config, raw), obs, 2)


def batch(generator):
    """The image is noise; the state, in units of thousands, tells the latent action."""
    obs = torch.rand(64, 3, 8, 8, generator=generator) * 2 - 1
    state = 3000 + 1000 * torch.randn(64, 2, generator=generator)
    return obs, state, torch.stack([state[:, 1], -state[:, 0]], dim=1) / 1000


def explained(policy, state_dim, num_steps=150):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(num_steps):
        obs, state, z = batch(generator)
        loss = policy(obs, z, robot_state=state if state_dim else None).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    obs, state, z = batch(generator)
    with torch.no_grad():
        chosen, _ = policy.eval().act(obs, robot_state=state if state_dim else None)
    return 1 - float((chosen - z).square().mean() / z.var(0).mean())


@pytest.mark.parametrize("name", ["latent_bc", "latent_flow"])
def test_a_policy_that_reads_the_state_learns_what_only_the_state_tells(name):
    assert explained(make(name, state_dim=2), state_dim=2) > 0.8


@pytest.mark.parametrize("name", ["latent_bc", "latent_flow"])
def test_a_policy_that_sees_the_image_alone_cannot(name):
    assert explained(make(name, state_dim=0), state_dim=0) < 0.2


@pytest.mark.parametrize("state", [None, torch.zeros(3, 1)])
def test_a_state_that_is_missing_or_of_another_size_is_refused(state):
    with pytest.raises(ValueError, match=r"Expected states \[B, 2\]"):
        make("latent_bc", state_dim=2).encode(torch.zeros(3, 3, 8, 8), state)
