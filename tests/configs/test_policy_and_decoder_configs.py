"""The shipped configs of policies and decoders compare fairly."""

from pathlib import Path

import pytest

from lafp.config import load_config
from lafp.train.tasks.decoder import TrainDecoderConfig
from lafp.train.tasks.policy import TrainPolicyConfig

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMAS = {"train_policy": TrainPolicyConfig, "train_decoder": TrainDecoderConfig}


def loaded(folder):
    return {p.stem: load_config(SCHEMAS[folder], p) for p in (CONFIGS / folder).glob("*.yaml")}


@pytest.mark.parametrize("prefix", ["", "slalom_", "procgen_"])
def test_the_baseline_has_the_encoder_head_data_and_updates_of_the_flow_policy(prefix):
    configs = loaded("train_policy")
    bc, flow = configs[f"{prefix}latent_bc"], configs[f"{prefix}latent_flow"]
    assert (bc.train, bc.window) == (flow.train, flow.window)
    assert bc.policy.encoder == flow.policy.encoder
    assert bc.policy.hidden_dims == flow.policy.hidden_dims


def test_mean_flow_differs_from_flow_in_its_objective_alone():
    configs = loaded("train_policy")
    mean_flow, flow = configs["latent_mean_flow"], configs["latent_flow"]
    assert (mean_flow.train, mean_flow.window) == (flow.train, flow.window)
    assert mean_flow.policy.encoder == flow.policy.encoder
    assert mean_flow.policy.hidden_dims == flow.policy.hidden_dims


def test_decoders_of_one_comparison_differ_in_policy_and_anchor_alone():
    decoders = [cfg for name, cfg in loaded("train_decoder").items() if name.startswith("slalom_")]
    assert {(cfg.policy, cfg.anchor_time) for cfg in decoders} == {
        ("latent_bc", 0),
        ("latent_bc", 1),
        ("latent_flow", (0, 1)),
        ("latent_flow", 0),
        ("latent_flow", 0.25),
        ("latent_flow", 0.5),
        ("latent_flow", 0.75),
        ("latent_flow", 1),
    }
    shared = {
        (cfg.train, cfg.action_decoder, cfg.label_fraction, cfg.label_seed) for cfg in decoders
    }
    assert len(shared) == 1
