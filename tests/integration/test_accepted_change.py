"""A run that ended with NaN goes on in the same folder when the user changes the learning rate."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lafp.train.metrics.log import read_metrics
from tests.integration.conftest import ROOT
from tests.synthetic_shards import write_shard_set

pytestmark = pytest.mark.slow


def train_lam(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    shards = tmp_path / "shards"
    if not shards.exists():
        write_shard_set(shards, num_clips=24, size_px=64)
    command = [sys.executable, "-m", "ray_jobs.train_lam", "configs/train_lam/lapo_debug.yaml"]
    options = ["--storage", str(tmp_path), "--run-name", "run", f"shards={shards}"]
    train = ["global_batch_size=8", "num_workers=2", "checkpoint_every_steps=5", "tracker=null"]
    train += ["report_every_steps=5", "evaluate_every_steps=1000"]
    options += [f"train.{override}" for override in train]
    return subprocess.run(
        [*command, *options, *args], cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def test_a_learning_rate_that_gave_nan_is_lowered_and_the_run_goes_on(tmp_path):
    done = train_lam(tmp_path, "train.num_steps=5", "train.optim.lr=1e-3")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    diverged = train_lam(tmp_path, "train.num_steps=20", "train.optim.lr=1e30", "--accept-changes")
    said = diverged.stdout + diverged.stderr
    assert diverged.returncode != 0 and "Traceback" not in said, said[-3000:]
    assert "--accept-changes" in said and "on_non_finite" in said, said[-3000:]

    refused = train_lam(tmp_path, "train.num_steps=20", "train.optim.lr=1e-4")
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "--accept-changes" in refused.stdout + refused.stderr

    done = train_lam(tmp_path, "train.num_steps=20", "train.optim.lr=1e-4", "--accept-changes")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    stage = tmp_path / "run" / "lam"
    assert read_metrics(str(stage))[-1]["step"] == 20
    accepted = json.loads((stage / "provenance.json").read_text())["accepted_changes"]
    rates = [(c["was"], c["now"]) for c in accepted if c["field"] == "train.optim.lr"]
    assert rates == [(1e-3, 1e30), (1e30, 1e-4)]
