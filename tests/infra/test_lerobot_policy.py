"""The plugin for LeRobot. With lerobot installed (docs/lerobot.md), the slow tests run it for real.

python -m pytest -m slow tests/infra/test_lerobot_policy.py
"""

import ast
import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from lafp import Agent
from lafp.config import config_from_dict
from lafp.data.randomness import derive_seed
from lafp.envs.slalom import Slalom
from lafp.evaluate.acting.rollouts import rollout
from lafp.finished.saved_model import save_model
from lafp.models.action_decoder import ActionDecoder, ActionDecoderConfig
from lafp.policies import POLICIES
from lafp.types import ObsSpec

PLUGIN = Path(__file__).parents[2] / "infra" / "lerobot_policy_lafp"
needs_lerobot = pytest.mark.skipif(
    importlib.util.find_spec("lerobot_policy_lafp") is None, reason="needs lerobot and the plugin"
)


def to_agent(*args):
    path = PLUGIN / "lerobot_policy_lafp" / "pictures.py"
    spec = importlib.util.spec_from_file_location("pictures", path)
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    return pictures.to_agent(*args)


def test_a_picture_of_the_agents_size_keeps_its_values():
    seen = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
    want = seen.permute(0, 2, 3, 1)
    assert torch.equal(to_agent(seen, 20, 30, "crop"), want)
    assert torch.equal(to_agent(seen / 255, 20, 30, "pad"), want)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(96, 128), (61, 47), (20, 60)])
def test_a_picture_is_scaled_as_by_preprocessing(fit, size):
    av = pytest.importorskip("av")
    from data_pipelines.preprocess.clip.resize import ResizeConfig, crop_or_pad, scaled_size
    from lafp.video.convert import SCALING
    from lafp.video.decoders.base import VideoInfo

    height, width = size
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)
    info = VideoInfo.__new__(VideoInfo)
    object.__setattr__(info, "width_px", width)
    object.__setattr__(info, "height_px", height)
    cfg = ResizeConfig(width_px=32, height_px=24, fit=fit)
    to_width, to_height = scaled_size(info, cfg)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    scaled = frame.reformat(to_width, to_height, format="rgb24", interpolation=SCALING)
    want = crop_or_pad(scaled.to_ndarray(), cfg)
    got = to_agent(torch.from_numpy(picture).permute(2, 0, 1)[None], 24, 32, fit)[0].numpy()
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).mean() < 3


def test_lerobot_finds_the_plugin_by_its_names():
    """LeRobot guesses modules and classes from the names of the distribution and the config."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())
    name = project["project"]["name"]
    assert name.startswith("lerobot_policy_") and project["tool"]["setuptools"]["packages"] == [
        name
    ]
    defined = {
        module: {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}
        for path in (PLUGIN / name).glob("*.py")
        for module in [path.stem]
    }
    assert "LafpConfig" in defined["configuration_lafp"]
    assert "LafpPolicy" in defined["modeling_lafp"]
    assert "make_lafp_pre_post_processors" in defined["processor_lafp"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose agent acts at random, but always the same, in pictures of slalom."""
    run = tmp_path_factory.mktemp("lerobot") / "run"
    env = Slalom(Slalom.Config())
    obs = ObsSpec(height_px=48, width_px=48, frame_stack=2, fps=env.fps)
    encoder = {"name": "small_cnn", "channels": [4], "embed_dim": 8}
    policy_class = POLICIES.get("latent_flow")
    cfg = config_from_dict(policy_class.Config, {"encoder": encoder, "hidden_dims": [16]})
    torch.manual_seed(0)
    policy = policy_class(cfg, obs, 4)
    policy(torch.rand(8, 6, 48, 48), 3 + torch.randn(8, 4))
    specs = {"obs": obs, "latent_action_dim": 4}
    uri = f"{run}/policy/flow"
    save_model(uri, kind="policy", config=cfg, specs=specs, module=policy, metrics={})
    sha = json.loads(Path(uri, "model.json").read_text())["weights_sha256"]
    cfg = ActionDecoderConfig(hidden_dims=(8,), use_obs_embedding=True)
    decoder = ActionDecoder(cfg, env.action_spec, 4, 8)
    specs = {"action": env.action_spec, "latent_action_dim": 4, "embed_dim": 8}
    specs |= {"policy": "flow", "policy_sha256": sha, "is_policy_tuned": False}
    uri = f"{run}/decoder/flow"
    save_model(uri, kind="decoder", config=cfg, specs=specs, module=decoder, metrics={})
    return run


class InBatches:
    """The agent with the noise that the plugin draws at its first reset."""

    def __init__(self, agent):
        self.agent, self.reads = agent, agent.reads

    def reset(self, num_episodes, seed):
        self.agent.reset(num_episodes, derive_seed(0, "lerobot", 0))

    def act(self, obs):
        return self.agent.act(obs)


@pytest.mark.slow
@needs_lerobot
def test_an_agent_acts_in_lerobot_as_in_lafp(run, tmp_path):
    from lerobot.envs.factory import make_env
    from lerobot.policies.factory import make_policy, make_pre_post_processors
    from lerobot.scripts import lerobot_eval
    from lerobot_policy_lafp import LafpConfig, LafpEnv

    seeds = [5, 6, 7]
    env_cfg = LafpEnv(task="Slalom-v0")
    agent = Agent.load(run)
    want = rollout(Slalom(Slalom.Config()), InBatches(agent), np.array(seeds), num_recorded=3)

    def actions_of(config):
        policy = make_policy(config, env_cfg=env_cfg)
        processors = make_pre_post_processors(config, config.pretrained_path)
        envs = make_env(env_cfg, n_envs=3)["lafp"][0]
        steps = [lambda passed: passed] * 2  # of the environment, which has none
        done = lerobot_eval.rollout(envs, policy, *steps, *processors, seeds=seeds)
        return policy, done["action"].numpy()

    policy, got = actions_of(LafpConfig(run=str(run), device="cpu"))
    for episode, recording in enumerate(want.recordings):
        length = len(recording.actions)
        np.testing.assert_allclose(got[episode, :length], recording.actions, atol=1e-5)
    # The folder that LeRobot's users share and name with --policy.path.
    policy.save_pretrained(tmp_path / "shared")
    config = type(policy.config).from_pretrained(tmp_path / "shared")
    config.pretrained_path = tmp_path / "shared"
    assert config.run is None
    np.testing.assert_allclose(actions_of(config)[1], got, atol=1e-5)


@pytest.mark.slow
@needs_lerobot
def test_lerobot_eval_runs_an_agent(run, tmp_path):
    command = [
        str(Path(sys.executable).parent / "lerobot-eval"),
        *("--policy.type=lafp", f"--policy.run={run}", "--policy.action_decoder=flow"),
        *("--policy.device=cpu", "--env.type=lafp", "--env.task=Slalom-v0"),
        *("--env.options={distractors: true}", "--eval.n_episodes=4", "--eval.batch_size=2"),
        *("--eval.use_async_envs=true", f"--output_dir={tmp_path / 'out'}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    info = json.loads((tmp_path / "out" / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 4
    assert len(list((tmp_path / "out" / "videos").rglob("*.mp4"))) == 4


@pytest.mark.slow
@needs_lerobot
@pytest.mark.parametrize(
    ("options", "words"),
    [([], "--policy.run=RUN"), (["--policy.run=/nowhere"], "/nowhere")],
)
def test_a_missing_agent_is_named(options, words, tmp_path):
    command = [
        str(Path(sys.executable).parent / "lerobot-eval"),
        *("--policy.type=lafp", "--policy.device=cpu", "--env.type=lafp", *options),
        f"--output_dir={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode != 0 and words in done.stderr.splitlines()[-1], done.stderr[-3000:]
