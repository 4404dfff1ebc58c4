"""The baseline on labels alone, through the real loop, on real shards."""

import numpy as np
import pytest
import torch

from lafp.agent import Agent
from lafp.config import ConfigError, config_from_dict
from lafp.data.labels import labeled_subset
from lafp.finished.saved_model import read_card
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.tasks.behavior_cloning import BehaviorCloningTask, TrainBcConfig
from lafp.train.tasks.decoder import DecoderTask, TrainDecoderConfig
from tests.synthetic_lam import write_lam
from tests.synthetic_shards import SyntheticClip, write_clips, write_shard_set

POLICY = {"name": "latent_bc", "encoder": {"name": "small_cnn", "channels": [8], "embed_dim": 16}}
TRAIN = {"num_steps": 80, "global_batch_size": 16, "optim": {"lr": 1e-2}}
MAX_ACTION = 4.0


def config(**settings):
    return config_from_dict(
        TrainBcConfig, {"name": "bc", "policy": POLICY, "train": TRAIN} | settings
    )


def bright_or_dark(seed, split):
    """Six pictures, each bright or dark; the action is +3 or -3 in x accordingly, 0 in y."""
    is_bright_T = np.random.default_rng(seed).integers(0, 2, 6).astype(bool)
    frames = np.zeros((6, 16, 16, 3), np.uint8)
    frames[is_bright_T] = 200
    action = np.stack([np.where(is_bright_T, 3.0, -3.0), np.zeros(6)], axis=1).astype(np.float32)
    return SyntheticClip(frames=frames, true_action=action, split=split)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    clips = [bright_or_dark(seed, "train" if seed < 12 else "val") for seed in range(16)]
    return write_clips(tmp_path_factory.mktemp("labeled"), clips, 4, 0, max_action=MAX_ACTION)


@pytest.fixture(scope="module")
def trained(labeled, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    task = BehaviorCloningTask(config(), labeled)
    metrics = train(task.cfg.train, task, LocalContext(str(run / "policy" / "bc")))
    return str(run), metrics


def test_the_clone_acts_in_the_environments_units_without_an_action_decoder(trained):
    run, metrics = trained
    assert metrics["val/action_r2_deployed"] > 0.9
    agent = Agent.load(run, policy="bc")
    agent.reset(2)
    pictures = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (200, 0)])
    np.testing.assert_allclose(agent.act(pictures), [[3, 0], [-3, 0]], atol=0.5)
    assert agent.action.high == (MAX_ACTION, MAX_ACTION)


def test_it_depends_on_no_latent_action_model(trained):
    run, _ = trained
    specs = read_card(f"{run}/policy/bc", "policy")["specs"]
    assert "lam_sha256" not in specs
    assert specs["action"]["dim"] == specs["latent_action_dim"] == 2


def test_actions_beyond_the_bounds_are_cut_off(trained):
    agent = Agent.load(trained[0], policy="bc")
    far = torch.tensor([[5.0, -5.0]])
    torch.testing.assert_close(
        agent.action_decoder.decode(far, far), torch.tensor([[MAX_ACTION, -MAX_ACTION]])
    )


def test_it_sees_the_labels_that_an_action_decoder_sees(labeled):
    task = BehaviorCloningTask(config(label_fraction=0.25, label_seed=3), labeled)
    subset = labeled_subset(labeled, "train", 0.25, 3)
    assert len(subset) == 3
    assert task.demands()["labeled"].order.only_clips == subset


def test_an_action_decoder_behind_a_policy_of_true_actions_is_refused(trained, labeled, tmp_path):
    raw = {"name": "d", "policy": "bc", "train": TRAIN}
    with pytest.raises(ConfigError, match="was trained on another latent action model"):
        DecoderTask(
            config_from_dict(TrainDecoderConfig, raw),
            labeled,
            f"{trained[0]}/policy/bc",
            write_lam(str(tmp_path / "lam")),
        )


def test_discrete_and_missing_actions_are_refused(tmp_path):
    button = SyntheticClip(
        frames=np.zeros((4, 16, 16, 3), np.uint8),
        true_action=np.array([0, 1, 2, 0], np.int64),
        split="train",
    )
    discrete = write_clips(tmp_path / "discrete", [button], 4, 0, max_action=1.0)
    with pytest.raises(ConfigError, match="discrete; train_bc clones continuous ones"):
        BehaviorCloningTask(config(), discrete)
    with pytest.raises(ConfigError, match="has no actions"):
        BehaviorCloningTask(config(), write_shard_set(tmp_path / "videos", 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_fraction": 0}, r"label_fraction must be in \(0, 1\], got 0"),
        ({"policy": POLICY | {"chunk_steps": 2}}, "policy.chunk_steps must be 1"),
        ({"policy": POLICY | {"standardizer": {"name": "range"}}}, "standardizer.name is range"),
        ({"policy": POLICY | {"latent_projection": {"name": "pca", "dim": 1}}}, "projection none"),
        ({"window": {"max_offset_steps": 3}}, "a policy acts one step at a time"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)
