"""State and condition as inputs: what only they tell, only a policy that reads them can learn."""

import pytest
import torch

from lafp.config import config_from_dict
from lafp.policies import POLICIES
from lafp.types import ObsSpec

ENCODER = {"name": "small_cnn", "channels": [4], "embed_dim": 8}


def make(name, **dims):
    policy_class = POLICIES.get(name)
    raw = {"encoder": ENCODER, "hidden_dims": [32], "inputs": dict.fromkeys(dims, True)}
    obs = ObsSpec(
        height_px=8, width_px=8, frame_stack=1, fps=10, **{f"{k}_dim": v for k, v in dims.items()}
    )
    torch.manual_seed(0)
    return policy_class(config_from_dict(policy_class.Config, raw), obs, 2)


def batch(generator):
    """The image is noise; the vector, in units of thousands, tells the latent action."""
    obs = torch.rand(64, 3, 8, 8, generator=generator) * 2 - 1
    vectors = 3000 + 1000 * torch.randn(64, 2, generator=generator)
    return obs, vectors, torch.stack([vectors[:, 1], -vectors[:, 0]], dim=1) / 1000


def explained(policy, num_steps=150):
    is_reading = policy.obs.vector_dim > 0
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(num_steps):
        obs, vectors, z = batch(generator)
        loss = policy(obs, z, vectors=vectors if is_reading else None).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    obs, vectors, z = batch(generator)
    with torch.no_grad():
        chosen, _ = policy.eval().act(obs, vectors=vectors if is_reading else None)
    return 1 - float((chosen - z).square().mean() / z.var(0).mean())


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("latent_bc", {"state": 2}),
        ("latent_flow", {"condition": 2}),
        ("latent_flow", {"state": 1, "condition": 1}),
    ],
)
def test_a_policy_that_reads_vectors_learns_what_only_they_tell(name, dims):
    assert explained(make(name, **dims)) > 0.8


@pytest.mark.parametrize("name", ["latent_bc", "latent_flow"])
def test_a_policy_that_sees_the_image_alone_cannot(name):
    assert explained(make(name)) < 0.2


@pytest.mark.parametrize("vectors", [None, torch.zeros(3, 1)])
def test_vectors_that_are_missing_or_of_another_size_are_refused(vectors):
    with pytest.raises(ValueError, match=r"Expected state and condition \[B, 5\]"):
        make("latent_bc", state=2, condition=3).encode(torch.zeros(3, 3, 8, 8), vectors)
