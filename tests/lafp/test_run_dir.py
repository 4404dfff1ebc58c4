from dataclasses import dataclass

import pytest

from lafp.config import ConfigError, may_change
from lafp.run_dir import RunDir


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    lr: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    optim: OptimConfig = OptimConfig()
    sizes: tuple[int, ...] = (1, 2)
    num_steps: int = may_change(default=10)


@pytest.fixture
def stage(tmp_path):
    return RunDir(str(tmp_path / "run")).stage("lam")


def test_a_stage_is_new_then_partial_then_complete(stage):
    cfg = TrainConfig()
    assert stage.state(cfg, {}) == "new"
    stage.begin(cfg, {})
    assert stage.state(cfg, {}) == "partial"
    stage.finish({"loss": 1.0})
    assert stage.state(cfg, {}) == "complete"
    assert stage.summary() == {"loss": 1.0}


def test_more_steps_resume_a_complete_stage(stage):
    stage.begin(TrainConfig(), {})
    stage.finish({})
    assert stage.state(TrainConfig(num_steps=20), {}) == "partial"


def test_another_config_in_the_same_folder_is_refused_with_the_difference(stage):
    stage.begin(TrainConfig(), {"shards": "abc"})
    other = TrainConfig(optim=OptimConfig(lr=1e-4))
    with pytest.raises(ConfigError, match=r"another config: optim\.lr was 0\.001, now 0\.0001"):
        stage.state(other, {"shards": "abc"})
    with pytest.raises(ConfigError, match=r"another inputs?: shards was 'abc', now 'xyz'"):
        stage.state(TrainConfig(), {"shards": "xyz"})


def test_a_fingerprint_follows_config_and_inputs(tmp_path):
    def complete(name, cfg, inputs):
        stage = RunDir(str(tmp_path / name)).stage("lam")
        stage.begin(cfg, inputs)
        stage.finish({})
        return stage.fingerprint()

    first = complete("a", TrainConfig(), {"shards": "abc"})
    assert first == complete("b", TrainConfig(), {"shards": "abc"})
    assert first != complete("c", TrainConfig(), {"shards": "xyz"})
    assert first != complete("d", TrainConfig(num_steps=11), {"shards": "abc"})


def test_an_incomplete_stage_says_how_to_complete_it(stage):
    with pytest.raises(ConfigError, match="'lam' is not complete"):
        stage.summary()
