"""The probe of a finished LAM, on real shards: which clips it takes, and what it measures."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lafp.config import config_from_dict
from lafp.data.labels import UNSEEN, labeled_subset, unseen_clips
from lafp.evaluate.probes.lam_probe import LamProbe, transitions_of_probe
from lafp.evaluate.probes.probe_clips import probe_clips
from lafp.evaluate.probes.thorough_probe import AT, Probed, probe_thoroughly
from lafp.evaluate.probes.training_data import why_no_probe
from lafp.lam import Lam
from lafp.objectives import OBJECTIVES
from lafp.train.tasks.lam_sections import ProbeConfig
from lafp.train.tasks.lam_shards import obs_spec
from tests.synthetic_shards import SyntheticClip, write_clips, write_shard_set


@pytest.fixture(scope="module")
def labeled(tmp_path_factory) -> str:
    """20 training clips and 8 held-out ones, every other of which lies in the folder unseen."""
    folder = tmp_path_factory.mktemp("labeled")
    uri = write_shard_set(folder, num_clips=28, num_val_clips=8, frames=(8, 12), has_labels=True)
    rows = pq.read_table(folder / "clips").to_pylist()
    for index, row in enumerate(rows):
        place = f"labeled_val/{UNSEEN}" if row["split"] == "val" and index % 2 else row["split"]
        row["video_uri"] = f"/demonstrations/{place}/episode_{index}.mp4"
    pq.write_table(pa.Table.from_pylist(rows), folder / "clips/part-00000.parquet")
    return uri


@pytest.fixture(scope="module")
def objective(labeled):
    raw = {"latent_action_dim": 8, "encoder": {"name": "small_cnn"}, "fdm": {"channels": [4, 8]}}
    cls = OBJECTIVES.get("lapo")
    cfg = config_from_dict(cls.Config, raw | {"bottleneck": {"name": "none"}})
    torch.manual_seed(0)
    return cls(cfg, obs_spec(labeled, 1)).eval()


def test_labels_that_supervised_are_left_out_of_the_fit(labeled):
    supervised = labeled_subset(labeled, "train", 0.25, 0)
    clips = probe_clips(labeled, supervised)
    assert len(supervised) == 5 and not supervised & clips.fit.keys()
    assert clips.num_episodes == (15, 8) and clips.fit_split == "train"
    assert probe_clips(labeled).num_episodes == (20, 8)


def test_where_all_labels_supervised_the_probe_is_fitted_on_half_of_the_seen_episodes(labeled):
    clips = probe_clips(labeled, labeled_subset(labeled, "train", 1.0, 0))
    # Of the 4 held-out episodes that look as those of training do; the other 4 stay held out.
    assert clips.num_episodes == (2, 6) and clips.fit_split == "val"
    assert not set(clips.fit.values()) & set(clips.held_out.values())
    assert unseen_clips(labeled) <= clips.held_out.keys()


def test_too_few_episodes_beside_those_that_supervised_are_said_to_be_so(tmp_path):
    uri = write_shard_set(tmp_path, num_clips=5, num_val_clips=2, frames=(4, 5), has_labels=True)
    assert why_no_probe(uri) is None
    text = why_no_probe(uri, labeled_subset(uri, "train", 1.0, 0))
    assert "Beside the episodes" in text and "lower supervision.label_fraction" in text


def test_a_finished_lam_is_probed_in_all_ways_on_all_transitions(labeled, objective):
    supervised = labeled_subset(labeled, "train", 0.25, 0)
    rows = probe_thoroughly(Lam(objective), labeled, supervised, seed=0)
    found = {(row["method"], row["metric"]): row for row in rows}
    frames = {row["clip_id"]: row for row in pq.read_table(f"{labeled}/clips").to_pylist()}
    clips = probe_clips(labeled, supervised)
    num_fit, num = (
        sum(frames[c]["num_frames"] - 1 for c in of) for of in (clips.fit, clips.held_out)
    )
    for method in ("lam", "embedding", "random_lam"):
        for name in ("r2", "mse", "r2_standardized", "r2_mlp", "r2_seen", "r2_unseen"):
            assert math.isfinite(found[method, f"probe_{name}"]["value"])
        assert found[method, f"{AT}{num_fit}"]["value"] == found[method, "probe_r2"]["value"]
    assert found["lam", "probe_r2"]["n"] == num
    assert sum(found["lam", f"probe_r2_{name}"]["n"] for name in ("seen", "unseen")) == num
    over = found["lam", "probe_gain_over_embedding"]
    r2 = {method: found[method, "probe_r2"]["value"] for method in ("lam", "embedding")}
    assert over["value"] == pytest.approx(r2["lam"] - r2["embedding"])
    assert over["low"] <= over["value"] <= over["high"]
    assert ("lam", "probe_r2_noise") not in found  # these demonstrations carry none


def test_the_probe_of_training_leaves_the_supervising_labels_out_too(labeled, objective):
    everything = LamProbe(labeled, ProbeConfig(), seed=0).measure(objective)
    supervised = labeled_subset(labeled, "train", 0.5, 0)
    others = LamProbe(labeled, ProbeConfig(), 0, supervised).measure(objective)
    assert everything["probe/n"] == others["probe/n"]
    assert everything["probe/r2"] != others["probe/r2"]


def test_the_noise_of_demonstrations_is_probed_with_its_known_r2(tmp_path):
    """Features hold the noise plus as much of something else: R2 of the noise is 0.5.

    The state tells the rest of the action, which the features do not hold at all.
    """
    rng, clips = np.random.default_rng(0), []
    for index in range(40):
        noise = 0.2 * rng.standard_normal((40, 2)).astype(np.float32)
        if index % 4 == 1:
            noise[:] = 0  # this demonstrator explores in some of its episodes only
        action = noise + rng.choice([-0.5, 0.5], 2).astype(np.float32)
        clips.append(
            SyntheticClip(
                frames=np.full((40, 16, 16, 3), 20, np.uint8),
                true_action=action,
                action_noise=noise,
                split="val" if index % 2 else "train",
            )
        )
    uri = write_clips(tmp_path, clips, 20, seed=0, max_action=2.0)

    def features_of(window):
        generator = torch.Generator().manual_seed(int(1e6 * window.action_noise.abs().sum()))
        return window.action_noise + 0.2 * torch.randn(
            window.action_noise.shape, generator=generator
        )

    fit, held_out = (
        transitions.features(features_of, 1, torch.device("cpu"))
        for transitions in transitions_of_probe(uri, frozenset(), None)
    )
    rows, _ = Probed(fit=fit, held_out=held_out).rows("lam")
    found = {row["metric"]: row for row in rows}
    assert found["probe_r2_noise"]["value"] == pytest.approx(0.5, abs=0.06)
    assert found["probe_r2_noise"]["n"] == 10 * 39  # the held-out episodes that explore
    assert found["probe_r2"]["value"] < 0.2
