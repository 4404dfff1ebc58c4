"""S3 goes away under training, and comes back."""

import threading
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from lafp.runs.run_dir import StageDir
from lafp.train.checkpoint_files import is_whole
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.metrics.log import read_metrics
from ray_jobs.core.cluster import start_local
from ray_jobs.training.trainer import fit
from tests.cable import Cable
from tests.s3_server import point_to_s3
from tests.shard_tables import upload_folder
from tests.synthetic_shards import write_shard_set
from tests.toy_task import ToyTask

GONE_S = 60.0
"""Longer than boto3 tries by itself."""


@pytest.fixture
def cable(s3_server, monkeypatch):
    """Between all of Ray's workers and S3."""
    cable = Cable(int(s3_server["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    point_to_s3(monkeypatch, f"http://127.0.0.1:{cable.port}")
    start_local(4)
    yield cable
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["direct", "ray"])
def test_training_waits_for_storage_and_goes_on_where_it_was(cable, s3_bucket, tmp_path, mode):
    """Clips are read from there and checkpoints, metrics and the model written: none fails."""
    write_shard_set(tmp_path / "shards", num_clips=20)
    upload_folder(tmp_path / "shards", f"{s3_bucket}/shards")
    stage = StageDir(f"{s3_bucket}/run/lam", "lam")
    gone = []

    def lose_storage() -> None:
        while not is_whole(stage.uri + "/checkpoints/step-000000005"):
            time.sleep(0.1)
        cable.pull()
        gone.append(time.monotonic())
        time.sleep(GONE_S)
        cable.is_plugged = True
        gone.append(time.monotonic())

    thread = threading.Thread(target=lose_storage)
    thread.start()
    cfg = TrainConfig(
        num_steps=400,
        global_batch_size=16,
        num_workers=2,
        report_every_steps=5,
        checkpoint_every_steps=5,
        evaluate_every_steps=1000,
        max_failures=0,
        ingest=IngestConfig(mode=mode, cache_bytes=0),
    )
    task = partial(ToyTask, f"{s3_bucket}/shards", clips_per_step=8, export_to=str(tmp_path))
    metrics = fit(stage, cfg, task)
    assert len(gone) == 2 and time.monotonic() > gone[1], "it was gone while training ran"
    thread.join()
    assert metrics["resumed_from_steps"] == []
    assert [record["step"] for record in read_metrics(stage.uri)] == list(range(5, 401, 5))
    assert "damaged_clips" not in metrics, "storage that does not answer is no damaged clip"
    assert (Path(tmp_path) / "toy.pt").is_file()
