"""The examples of docs/extending.md, run as a reader would: written to files and registered."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lafp.config import config_from_dict
from lafp.envs import ENVS
from lafp.evaluate.acting.modes import mode_entropy
from lafp.evaluate.acting.rollouts import Expert, rollout
from lafp.objectives import OBJECTIVES
from lafp.policies import POLICIES
from lafp.report.run_page import ReportConfig, write_report
from lafp.report.sections import RESULT_SECTIONS
from lafp.types import ObsSpec
from tests.synthetic_run import write_demo_run, write_video_run
from tests.synthetic_windows import moving_square_windows, obs_spec

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/extending.md").read_text()
EXAMPLES = dict(re.findall(r"`lafp/([\w/]+)\.py`:\n\n```python\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes an example to a module of its own, and returns the module's name."""

    def write(example: str) -> str:
        module = "example_" + example.replace("/", "_")
        (tmp_path / f"{module}.py").write_text(EXAMPLES[example])
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)
        return module

    return write


@pytest.fixture
def register(written, monkeypatch):
    """Writes an example and adds its class to a registry."""

    def add(registry, example: str, name: str, cls: str):
        monkeypatch.setitem(registry.entries, name, f"{written(example)}:{cls}")
        return registry.get(name)

    return add


def losses(module, batches, num_steps: int) -> list[float]:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    values = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        out = module(*batches())
        out.loss.backward()
        # As training does: a likelihood's gradients jump.
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        values.append(float(out.loss.detach()))
    return values


def test_every_example_is_found():
    assert set(EXAMPLES) == {
        "objectives/foo",
        "policies/latent_gaussian",
        "envs/line",
        "report/sections/episode_length",
    }


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_short(example):
    """It has fewer than 60 non-blank lines, and the tests below register it as the page says."""
    assert sum(bool(line.strip()) for line in EXAMPLES[example].splitlines()) < 60


def test_the_objective_learns(register):
    cls = register(OBJECTIVES, "objectives/foo", "foo", "Foo")
    torch.manual_seed(0)
    objective = cls(config_from_dict(cls.Config, {"name": "foo"}), obs_spec())
    window = moving_square_windows(32, seed=0)
    values = losses(objective, lambda: (window,), num_steps=40)
    assert values[-1] < 0.5 * values[0]
    assert objective.infer_latent_action(window.obs, window.next_obs).shape == (32, 4)
    assert objective.embed(window.obs).shape[0] == 32


def test_the_policy_learns_acts_and_is_anchored(register):
    cls = register(POLICIES, "policies/latent_gaussian", "latent_gaussian", "LatentGaussian")
    torch.manual_seed(0)
    cfg = {"name": "latent_gaussian", "encoder": {"name": "small_cnn", "channels": [8]}}
    obs = ObsSpec(height_px=8, width_px=8, frame_stack=1, fps=10)
    policy = cls(config_from_dict(cls.Config, cfg), obs, 2)
    level = torch.rand(64) * 2 - 1
    images = level[:, None, None, None].expand(-1, 3, 8, 8)
    latent = torch.stack([100 + 10 * level, -5 * level], dim=1)
    values = losses(policy, lambda: (images, latent), num_steps=300)
    assert values[-1] < values[0] - 1
    policy.eval()
    action, _ = policy.act(images)
    assert (action - latent).abs().mean() < 3
    torch.testing.assert_close(
        policy.anchored_from_embedding(policy.encode(images), latent, 1), latent
    )
    with pytest.raises(ValueError, match=r"0\.5"):
        policy.anchored_from_embedding(policy.encode(images), latent, 0.5)


def test_the_environments_expert_succeeds_both_ways(register):
    cls = register(ENVS, "envs/line", "line", "Line")
    env = cls(config_from_dict(cls.Config, {"name": "line"}))
    result = rollout(env, Expert(env), np.arange(64), num_recorded=1)
    assert result.success.all()
    assert mode_entropy(result.modes, env.mode_sizes).joint > 0.9
    assert result.recordings[0].frames.shape[1:] == (16, 16, 3)


def test_the_section_is_on_the_page_of_a_run_that_has_its_rows(written, tmp_path, monkeypatch):
    section = importlib.import_module(written("report/sections/episode_length")).section
    monkeypatch.setattr("lafp.report.sections.RESULT_SECTIONS", [*RESULT_SECTIONS, section])
    demo = write_report(ReportConfig(), write_demo_run(tmp_path / "demo"))
    videos = write_report(ReportConfig(), write_video_run(tmp_path / "videos"))
    assert "length" in demo["sections"] and "length" not in videos["sections"]
    page = (tmp_path / "demo/report.html").read_text()
    assert "How long does it take?" in page and "[20.5, 23.5]" in page
