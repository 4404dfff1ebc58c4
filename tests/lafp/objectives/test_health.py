"""A LAM that is really collapsed, through the real loop, and what is said of it."""

import pytest

from lafp.config import config_from_dict
from lafp.evaluate.probes.lam_probe import LamProbe
from lafp.objectives.health import signs_of_collapse, supervision_sign
from lafp.report.training_findings import lam_signs
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.metrics.log import read_metrics
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from tests.synthetic_shards import write_shard_set


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("videos")
    return write_shard_set(folder, num_clips=30, num_val_clips=8, frames=(8, 10), has_labels=True)


def signs(shards: str, folder, bottleneck: dict, optim: dict, num_steps: int) -> dict[str, str]:
    raw = {
        "objective": {
            "name": "lapo",
            "latent_action_dim": 8,
            "encoder": {"name": "small_cnn", "channels": [8, 8], "embed_dim": 32},
            "idm_input": "difference",
            "fdm": {"channels": [8, 16]},
            "target": "residual",
            "bottleneck": bottleneck,
        },
        "window": {"windows_per_clip": 4},
        "train": {
            "num_steps": num_steps,
            "global_batch_size": 32,
            "optim": optim,
            "evaluate_every_steps": num_steps,
        },
    }
    cfg = config_from_dict(TrainLamConfig, raw)
    train(cfg.train, LamTask(cfg, shards, shards, make_probe=LamProbe), LocalContext(str(folder)))
    return signs_of_collapse(read_metrics(str(folder))[-1])


HEALTHY = {"lr": 1e-3}
COLLAPSING = {"lr": 1e-2, "weight_decay": 95.0}
"""Weights shrink to a twentieth per step: soon nothing is left of the IDM but its biases."""
VQ = {"name": "vq", "num_codes": 8, "num_discrete_latents": 1, "revive_after_steps": 10_000}


def test_a_lam_whose_weights_decay_away_is_called_constant(shards, tmp_path):
    found = signs(shards, tmp_path, {"name": "none"}, COLLAPSING, 60)
    assert "same z" in found["constant"]
    assert "no better from z than from the observation" in found["probe"]


def test_its_codebook_is_called_dead(shards, tmp_path):
    found = signs(shards, tmp_path, VQ, COLLAPSING, 60)
    assert {"constant", "dead_codebook", "probe"} <= set(found)


def test_a_lam_that_learns_is_not_called_constant(shards, tmp_path):
    assert "constant" not in signs(shards, tmp_path, {"name": "none"}, HEALTHY, 30)


def test_a_codebook_in_use_is_not_called_dead():
    assert signs_of_collapse({"val/codebook/perplexity": 6.2, "val/latent/spread": 0.9}) == {}


def test_records_without_an_evaluation_say_nothing():
    assert signs_of_collapse({"loss": 1.0, "latent/spread": 0.0}) == {}


def test_metrics_that_are_absent_give_no_sign():
    assert signs_of_collapse({"probe/r2": 0.1}) == {}
    assert signs_of_collapse({"probe/r2": 0.1, "probe/r2_low": 0.0}) == {}


def test_a_probe_that_is_not_clearly_better_is_not_called_no_better():
    probe = {"probe/r2": 0.09, "probe/r2_low": -0.06, "probe/r2_obs_embedding": 0.02}
    assert "not clearly better from z" in signs_of_collapse(probe)["probe"]
    assert "no better from z" in signs_of_collapse(probe | {"probe/r2": 0.01})["probe"]
    assert signs_of_collapse(probe | {"probe/num_episodes": 4}) == {}


def test_a_collapsed_or_dead_target_embedding_is_named():
    healthy = {"val/target_spread": 0.9, "val/target_dead_share": 0.02}
    assert signs_of_collapse(healthy) == {}
    collapsed = signs_of_collapse(healthy | {"val/target_spread": 0.05})
    assert "has collapsed" in collapsed["target"] and "strided_resnet" in collapsed["target"]
    assert "50% of the units" in signs_of_collapse({"val/target_dead_share": 0.5})["target"]


@pytest.mark.parametrize(("explained", "is_named"), [(-0.1, True), (0.0, True), (0.1, False)])
def test_an_fdm_that_does_not_beat_the_mean_of_its_target_is_named(explained, is_named):
    record = {"val/target_spread": 1.0, "val/target_explained": explained}
    assert ("target" in signs_of_collapse(record)) == is_named
    assert bool(lam_signs(record)) == is_named


def test_supervision_that_outweighs_the_rest_of_the_loss_is_named():
    assert supervision_sign(0.2, 0.5) is None
    assert "65 times" in supervision_sign(65 / 66, None)


@pytest.mark.parametrize(
    ("remaining_error_share", "is_named"), [(0.5, True), (0.02, False), (None, False)]
)
def test_supervision_that_hardly_counts_is_named_if_the_labels_are_not_learned(
    remaining_error_share, is_named
):
    sign = supervision_sign(0.007, remaining_error_share)
    assert ("raise supervision.weight" in (sign or "")) == is_named
