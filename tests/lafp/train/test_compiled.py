"""`train.compile`: the same training, with compiled networks."""

import shutil
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lafp.config import ConfigError
from lafp.evaluate.probes.lam_probe import LamProbe
from lafp.models.encoders import SmallCnnConfig
from lafp.objectives.base import Objective
from lafp.policies import POLICIES
from lafp.train.compiled import compile_networks, uncompiled
from lafp.train.config import TrainConfig
from lafp.train.context import LocalContext
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.tasks.lam import LamTask
from lafp.train.tasks.lam_sections import SupervisionConfig
from lafp.train.tasks.trained_lam import LamInputs, TrainedLam
from lafp.train.tasks.trained_policy import PolicyInputs, TrainedPolicy
from tests.lafp.objectives.test_objectives import CONFIGS, build, moving_square_windows
from tests.lafp.train.tasks.test_lam import lam_config
from tests.lafp.train.test_loop import run as run_toy
from tests.synthetic_shards import write_shard_set


def loss_and_gradients(module: nn.Module, inputs: object) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    module.zero_grad()
    loss = module(inputs).loss
    loss.backward()
    return loss.detach(), [p.grad for p in module.parameters() if p.grad is not None]


def check_equal(module: nn.Module, inputs: object) -> None:
    torch._dynamo.reset()  # graphs of an equal network would be used again
    compile_networks(module)
    with uncompiled(True):
        loss, gradients = loss_and_gradients(module, inputs)
    torch._dynamo.utils.counters.clear()
    compiled_loss, compiled_gradients = loss_and_gradients(module, inputs)
    num_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert num_graphs >= len(set(map(type, module.networks())))
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-4, atol=1e-5)
    assert len(compiled_gradients) == len(gradients) > 0
    for compiled, gradient in zip(compiled_gradients, gradients, strict=True):
        torch.testing.assert_close(compiled, gradient, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lapo-vq", "laof", "lapa-vq", "laom"])
def test_a_latent_action_model_has_the_same_loss_and_gradients(name):
    objective: Objective = build(CONFIGS[name])
    module = TrainedLam(objective, SupervisionConfig(), None)
    check_equal(module, LamInputs(window=moving_square_windows(16, 1), labeled=None))


def test_a_captured_latent_action_model_has_the_same_loss_and_gradients(monkeypatch):
    # Inductor's C++ compiler takes a minute; what is captured is the same.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    module = TrainedLam(build(CONFIGS["laom"]), SupervisionConfig(), None)
    check_equal(module, LamInputs(window=moving_square_windows(16, 1), labeled=None))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("latent_flow", marks=pytest.mark.slow),
        pytest.param("latent_mean_flow", marks=pytest.mark.slow),
        "latent_bc",
    ],
)
def test_a_policy_has_the_same_loss_and_gradients(name):
    policy_class = POLICIES.get(name)
    window = moving_square_windows(16, 1)
    obs = build(CONFIGS["laom"]).obs
    cfg = policy_class.Config(encoder=SmallCnnConfig(channels=(8, 8), embed_dim=16))
    module = TrainedPolicy(policy_class(cfg, obs, 4))
    inputs = PolicyInputs(obs=window.obs, latent_action=torch.randn(16, 4))
    module(inputs)  # the standardizer sees the latents once
    check_equal(module.eval(), inputs)


@pytest.mark.slow
def test_a_training_takes_the_same_steps(tmp_path):
    videos = write_shard_set(tmp_path / "videos", num_clips=16, num_val_clips=4, frames=(8, 12))
    metrics, states = {}, {}
    for is_compiled in (False, True):
        cfg = lam_config("laom", num_steps=4)
        object.__setattr__(cfg.train, "compile", is_compiled)
        task = LamTask(cfg, videos, None, make_probe=LamProbe)
        folder = str(tmp_path / f"{is_compiled}")
        metrics[is_compiled] = train(cfg.train, task, LocalContext(folder))
        states[is_compiled] = task.module.state_dict()
    assert metrics[True]["loss"] == pytest.approx(metrics[False]["loss"], rel=1e-3)
    assert states[True].keys() == states[False].keys()
    for name, value in states[False].items():
        torch.testing.assert_close(states[True][name], value, rtol=1e-2, atol=1e-3)


def test_what_cannot_be_compiled_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="compile does not work with zero_stage 3"):
        TrainConfig(
            num_steps=1, global_batch_size=1, compile=True, engine=DeepSpeedConfig(zero_stage=3)
        )
    shards = write_shard_set(tmp_path / "shards", num_clips=10)
    cfg = TrainConfig(num_steps=1, global_batch_size=8, compile=True)
    with pytest.raises(ConfigError, match="no network that is worth compiling"):
        run_toy(cfg, shards, tmp_path / "run")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        compile_networks(TrainedLam(build(CONFIGS["laom"]), SupervisionConfig(), None))
