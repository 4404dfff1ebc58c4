"""State and condition on their way from a shard to an agent's action."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lafp.agent import Agent
from lafp.config import ConfigError
from lafp.data.held_out import HeldOutClips
from lafp.evaluate.acting.open_loop import open_loop_errors
from lafp.finished.load import load_action_decoder, load_policy
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
from tests.synthetic_shards import SyntheticClip, write_clips, write_shard_set

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
        name="state", policy="latent_bc", anchor_time=0, action_decoder={"use_obs_embedding": True}
    )
    cfg = replace(cfg, train=replace(cfg.train, num_steps=300))
    decoder = DecoderTask(cfg, labeled, str(folder / "policy/latent_bc"), lam)
    uri = str(folder / "decoder/state")
    metrics = train(cfg.train, decoder, LocalContext(uri))
    return {"folder": str(folder), "labeled": labeled, "lam": lam, "metrics": metrics}


def test_windows_carry_the_state_of_their_own_frame(run):
    task = PolicyTask(policy_config(policy=POLICY), run["labeled"], run["lam"])
    (clips,) = first_batches(task, are_whole=True)
    batch, inputs = clips["videos"], task.inputs(clips)
    frames = batch.frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    for obs, state in zip(inputs.obs, inputs.vectors, strict=True):
        clip, t = (frames[:, :-1] == obs).all(dim=(2, 3, 4)).nonzero(as_tuple=True)
        assert (batch.state[clip, t] == state).all(dim=1).any()
    torch.testing.assert_close(batch.state[0, 0], 1000 + 50 * batch.true_action[0, 0])


def test_statistics_of_the_state_travel_with_the_policy(run):
    policy = load_policy(f"{run['folder']}/policy/latent_bc")
    assert policy.obs.state_dim == 2
    assert policy.vector_standardizer.count == 6 * 8
    torch.testing.assert_close(
        policy.vector_standardizer.mean.float(), torch.full((2,), 1000.0), atol=100, rtol=0
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
    expected = decoder.decode(policy.act_from_embedding(embedding, None)[0], embedding)
    np.testing.assert_allclose(action, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), "reads image and state, got image"),
        ({"state": np.zeros(2)}, "reads image and state, got state"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "state": np.zeros(3)}, r"states \[1, 2\]"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "state": np.array(["a", "b"])}, "of numbers"),
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


DIRECTIONS = 1.5 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
EPISODES = {"train": 24, "val": 8}


@pytest.fixture(scope="module")
def errands(tmp_path_factory):
    """Episodes that go one way each; the pictures are noise, only the condition tells which."""
    folder = tmp_path_factory.mktemp("errands")
    generator = np.random.default_rng(0)
    clips = [
        SyntheticClip(
            frames=generator.integers(0, 256, (6, 16, 16, 3), np.uint8),
            true_action=np.tile(DIRECTIONS[index % 4], (6, 1)),
            condition=np.eye(4, dtype=np.float32)[index % 4],
            split=split,
        )
        for split, num_episodes in EPISODES.items()
        for index in range(num_episodes)
    ]
    shards = write_clips(folder / "labeled", clips, clips_per_shard=8, seed=0, max_action=2.0)
    return {"folder": str(folder), "labeled": shards, "lam": write_lam(str(folder / "lam"))}


def run_of_errands(errands, name, inputs):
    """Trains policy and decoder; returns the run's folder and the decoder's metrics."""
    folder = f"{errands['folder']}/{name}-{'-'.join(inputs)}"
    policy = {"name": name, "encoder": ENCODER, "inputs": inputs}
    task = PolicyTask(policy_config(policy=policy), errands["labeled"], errands["lam"])
    train(task.cfg.train, task, LocalContext(f"{folder}/policy/{name}"))
    cfg = decoder_config(
        name="d", policy=name, anchor_time=0, action_decoder={"use_obs_embedding": True}
    )
    cfg = replace(cfg, train=replace(cfg.train, num_steps=200))
    decoder = DecoderTask(cfg, errands["labeled"], f"{folder}/policy/{name}", errands["lam"])
    return folder, train(cfg.train, decoder, LocalContext(f"{folder}/decoder/d"))


def test_an_agent_goes_where_its_condition_sends_it(errands):
    folder, metrics = run_of_errands(errands, "latent_flow", {"condition": True})
    assert metrics["val/action_r2_deployed"] > 0.9
    policy = load_policy(f"{folder}/policy/latent_flow")
    assert policy.obs.vector_dims == {"condition": 4}
    assert policy.vector_standardizer.count == 6 * 8
    agent = Agent.load(folder)
    assert agent.reads == {"image", "condition"}
    agent.reset(4)
    image = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), np.uint8)
    action = agent.act({"image": image, "condition": np.eye(4)})
    np.testing.assert_allclose(action, DIRECTIONS, atol=0.5)
    with pytest.raises(ValueError, match=r"conditions \[4, 4\] of numbers"):
        agent.act({"image": image, "condition": np.eye(4)[:3]})


def test_an_agent_without_the_condition_cannot_know_where_to_go(errands):
    _, metrics = run_of_errands(errands, "latent_flow", {})
    assert metrics["val/action_r2_deployed"] < 0.3


def test_open_loop_errors_show_an_agent_the_condition_of_each_clip(errands):
    """Of clips that go four ways, not one way for the whole batch."""
    folder, _ = run_of_errands(errands, "latent_bc", {"condition": True})
    held_out = HeldOutClips(errands["labeled"], max_clips=8)
    agent = Agent.load(folder)
    errors = open_loop_errors(agent, held_out.batches(torch.device("cpu")), agent.action)
    assert errors["action_r2"] > 0.9


def test_shards_without_conditions_are_refused_before_anything_starts(run):
    policy = {**POLICY, "inputs": {"condition": True}}
    with pytest.raises(ConfigError, match=r"policy.inputs.condition is true, but .* no condition"):
        PolicyTask(policy_config(policy=policy), run["labeled"], run["lam"])
