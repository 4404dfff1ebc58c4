"""A node of a cluster dies under the trials of a study."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.integration.conftest import ROOT
from tests.integration.ray_cluster import RealCluster, real_cluster


def wait_for_trial(cluster: RealCluster, study: Path, driver: subprocess.Popen) -> str:
    """The role of a node on which a trial's action decoder is being trained."""
    roles = {node["node_id"]: node["labels"].get("role") for node in cluster.listed("nodes")}
    deadline = time.monotonic() + 900
    while True:
        assert driver.poll() is None and time.monotonic() < deadline
        if any(study.glob("stages/decoder/latent_flow/*/metrics.jsonl")):
            (coordinator,) = cluster.listed("actors", class_name="_StopCoordinator", state="ALIVE")
            assert roles[coordinator["node_id"]] is None, "with the driver, on the head"
            workers = cluster.listed("actors", class_name="RayTrainWorker", state="ALIVE")
            if workers:
                return roles[workers[0]["node_id"]]
        time.sleep(0.2)


@pytest.mark.slow
def test_a_study_goes_on_when_the_node_of_a_trial_is_lost(tmp_path):
    command = (
        "-m",
        "ray_jobs.study",
        "configs/studies/tiny_labels.yaml",
        "--storage",
        str(tmp_path),
    )
    # So many that the node is lost amid them.
    steps = ("pipeline.train_decoder.0.train.num_steps=1500",)
    log = tmp_path / "driver.log"
    with real_cluster(tmp_path, dict(os.environ), {"one": {}, "other": {}}) as cluster:
        driver = subprocess.Popen(
            [sys.executable, *command, *steps],
            cwd=ROOT,
            env=cluster.environment | {"RAY_ADDRESS": cluster.address},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        try:
            cluster.kill_node(wait_for_trial(cluster, tmp_path / "tiny_labels", driver))
            driver.wait(timeout=900)
        finally:
            driver.kill()
        assert len(cluster.listed("nodes", state="ALIVE")) == 2  # the head and the other one
    assert driver.returncode == 0, log.read_text()[-4000:]
    table = pd.read_parquet(tmp_path / "tiny_labels/results.parquet")
    success = table[(table.metric == "success") & (table.method == "latent_flow")]
    assert sorted(zip(success.variant, success.label_fraction, strict=True)) == [
        (anchor, fraction) for anchor in ("idm_latents", "interpolated") for fraction in (0.5, 1.0)
    ]
