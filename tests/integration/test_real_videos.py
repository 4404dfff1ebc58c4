"""The pipelines of the README on real videos of robots and of the internet. Slow."""

import json

import pandas as pd
import pytest

from tests.integration.conftest import run_pipeline

VIDEOS = "configs/pipeline/videos.yaml"
LABELED = "configs/pipeline/labeled.yaml"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("folder", ["robot", "internet"])
def test_a_folder_of_videos_becomes_a_lam_and_a_report(shared_videos, tmp_path, folder):
    run_pipeline(
        tmp_path,
        f"preprocess.source={shared_videos / folder}",
        "train_lam.train.num_steps=100",
        config=VIDEOS,
    )
    run = tmp_path / "run"
    views = json.loads((run / "evaluation" / "latent_views" / "latent_views.json").read_text())
    assert views["prediction_error"] < views["copy_error"]
    assert len(list((run / "evaluation" / "latent_views").glob("*.png"))) >= 3
    assert "data:image/png;base64," in (run / "report.html").read_text()


def test_real_robot_episodes_give_a_probe_with_its_controls(shared_videos, tmp_path):
    run_pipeline(
        tmp_path,
        f"preprocess_labeled.source={shared_videos / 'labeled/bridge_v1_rlds/episodes.npz'}",
        config=LABELED,
    )
    results = pd.read_parquet(tmp_path / "run" / "evaluation" / "results.parquet")
    probes = results[results.metric == "probe_r2"]
    assert set(probes.method) >= {"lam", "embedding", "random_lam", "nothing"}
    assert (probes.n > 0).all()
    z = probes[probes.method == "lam"].iloc[0]
    assert z.low <= z.value <= z.high
