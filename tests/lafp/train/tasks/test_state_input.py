"""The robot's state on its way from a shard to an agent's action."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lafp.agent import Agent
from lafp.config import ConfigError
from lafp.models.action_decoder import load_action_decoder
from lafp.policies.base import load_policy
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.tasks.decoder import DecoderTask
from lafp.train.tasks.policy import PolicyTask
from tests.lafp.train.tasks.test_policy_and_decoder import (
    ENCODER,
    decoder_config,
    first_batches,
    policy_config,
)
from tests.synthetic_lam import write_lam
from tests.synthetic_shards import write_shard_set

POLICY = {"name": "latent_bc", "encoder": ENCODER, "inputs": {"state": True}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    labeled = write_shard_set(
        folder / "labeled", 16, num_val_clips=4, has_labels=True, has_state=True
    )
    lam = write_lam(str(folder / "lam"))
    task = PolicyTask(policy_config(policy=POLICY), labeled, lam)
    train(task.cfg.train, task, LocalContext(str(folder / "policy/latent_bc")))
    cfg = decoder_config(
        name="state", policy="latent_bc", anchor_time=0, decoder={"use_obs_embedding": True}
    )
    cfg = replace(cfg, train=replace(cfg.train, num_steps=300))
    decoder = DecoderTask(cfg, labeled, str(folder / "policy/latent_bc"), lam)
    uri = str(folder / "decoder/state")
    metrics = train(cfg.train, decoder, LocalContext(uri))
    return {"folder": str(folder), "labeled": labeled, "lam": lam, "metrics": metrics}


def test_windows_carry_the_state_of_their_own_frame(run):
    task = PolicyTask(policy_config(policy=POLICY), run["labeled"], run["lam"])
    (clips,) = first_batches(task)
    batch, inputs = clips["videos"], task.inputs(clips)
    frames = batch.frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    for obs, state in zip(inputs.obs, inputs.state, strict=True):
        clip, t = (frames[:, :-1] == obs).all(dim=(2, 3, 4)).nonzero(as_tuple=True)
        assert (batch.state[clip, t] == state).all(dim=1).any()
    torch.testing.assert_close(batch.state[0, 0], 1000 + 50 * batch.true_action[0, 0])


def test_statistics_of_the_state_travel_with_the_policy(run):
    policy = load_policy(f"{run['folder']}/policy/latent_bc")
    assert policy.obs.state_dim == 2
    assert policy.state_standardizer.count == 6 * 8
    torch.testing.assert_close(
        policy.state_standardizer.mean.float(), torch.full((2,), 1000.0), atol=100, rtol=0
    )


def test_a_decoder_that_reads_the_embedding_reads_the_state(run):
    """The policy is a clone of six steps, so its latents tell nothing; the state tells all."""
    assert run["metrics"]["val/action_r2_deployed"] > 0.9


def test_an_agent_takes_the_state_in_its_own_units(run):
    agent = Agent.load(run["folder"])
    image = np.zeros((2, 16, 16, 3), np.uint8)
    state = np.array([[1000, 1100], [900, 1000]], np.float64)
    agent.reset(2)
    action = agent.act({"image": image, "state": state})
    np.testing.assert_allclose(action, [[0, 2], [-2, 0]], atol=0.5)
    policy = load_policy(f"{run['folder']}/policy/latent_bc")
    decoder, _ = load_action_decoder(f"{run['folder']}/decoder/state")
    embedding = policy.encode(torch.full((2, 3, 16, 16), -1.0), torch.from_numpy(state).float())
    expected = decoder.decode(policy.act_on(embedding, None)[0], embedding)
    np.testing.assert_allclose(action, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), "reads image and state, got image"),
        ({"state": np.zeros(2)}, "reads image and state, got state"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "state": np.zeros(3)}, r"states \[1, 2\]"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "state": np.zeros(2, int)}, "of floats"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "state": np.full(2, np.nan)}, "not finite"),
    ],
)
def test_observations_without_a_sound_state_are_refused(run, obs, message):
    with pytest.raises(ValueError, match=message):
        Agent.load(run["folder"]).act(obs)


def test_shards_without_states_are_refused_before_anything_starts(run, tmp_path):
    videos = write_shard_set(tmp_path / "videos", 8)
    labeled = write_shard_set(tmp_path / "labeled", 8, has_labels=True)
    for shards in (videos, labeled):
        with pytest.raises(ConfigError, match="have no state"):
            PolicyTask(policy_config(policy=POLICY), shards, run["lam"])
    cfg = decoder_config(policy="latent_bc", anchor_time=0)
    with pytest.raises(ConfigError, match=r"reads states of 2 numbers, the clips of .* have none"):
        DecoderTask(cfg, labeled, f"{run['folder']}/policy/latent_bc", run["lam"])
