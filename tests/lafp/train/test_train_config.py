import pytest

from lafp.config import ConfigError, config_from_dict, config_to_dict
from lafp.runs.run_dir import StageDir
from lafp.train.config import TrainConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig

REQUIRED = {"num_steps": 10, "global_batch_size": 24}


def load(**kwargs) -> TrainConfig:
    return config_from_dict(TrainConfig, REQUIRED | kwargs)


def test_the_engine_is_chosen_by_name():
    assert load().engine.name == "ddp"
    assert load(engine={"name": "deepspeed", "zero_stage": 3}).engine == DeepSpeedConfig(
        zero_stage=3
    )
    with pytest.raises(ConfigError, match=r"Unknown engine 'fsdp'\. Choose one of: ddp, deepspeed"):
        load(engine={"name": "fsdp"})
    with pytest.raises(ConfigError, match=r"engine\.zero_stage"):
        load(engine={"name": "deepspeed", "zero_stage": 4})


def test_the_micro_batch_is_what_one_worker_sees_at_once():
    assert load(num_workers=2, gradient_accumulation=3).micro_batch_size == 4
    with pytest.raises(ConfigError, match="global_batch_size 24 does not divide into 5 workers"):
        load(num_workers=5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"max_failures": -1}, "max_failures must not be negative"),
        ({"ingest": {"num_readers": 0}}, "ingest: num_readers must be at least 1"),
        ({"ingest": {"mode": "torch"}}, "ingest.mode"),
        ({"precision": "fp16"}, "precision"),
        ({"optim": {"lr": -1.0}}, "optim: lr must be positive"),
    ],
)
def test_values_out_of_range_are_named(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        load(**kwargs)


def test_a_config_comes_back_from_its_stored_form():
    cfg = load(engine={"name": "deepspeed"}, ingest={"mode": "direct"})
    assert config_from_dict(TrainConfig, config_to_dict(cfg)) == cfg


def test_a_resumed_run_may_change_workers_and_steps_but_not_the_batch(tmp_path):
    stage = StageDir(str(tmp_path / "lam"), "lam")
    stage.begin(load(), {})
    for change in (
        {"num_steps": 20},
        {"num_workers": 2},
        {"ingest": {"mode": "direct", "num_readers": 4}},
        {"tracker": {"name": "wandb", "mode": "offline"}},
    ):
        assert stage.state(load(**change), {}) == "partial"
    for change in ({"seed": 1}, {"global_batch_size": 48}, {"ingest": {"pool_shards": 2}}):
        with pytest.raises(ConfigError, match="was made with another config"):
            stage.state(load(**change), {})
