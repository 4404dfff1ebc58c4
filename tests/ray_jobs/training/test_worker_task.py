"""Training whose only worker is a Ray task: it keeps what Ray Train promises to several workers."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import ray
import torch

from lafp.config import ConfigError
from lafp.train.checkpoint_files import is_whole
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.metrics.log import read_starts
from ray_jobs.core.cluster import start_local
from ray_jobs.core.job import JobError
from ray_jobs.training.trainer import fit
from tests.processes import processes_below
from tests.ray_jobs.training import toy_runs
from tests.ray_jobs.training.toy_runs import (
    FAILURES,
    assert_fails,
    assert_resumes_after_a_kill,
    assert_resumes_from_s3,
    assert_same_run,
    assert_saves_and_stops_at_sigterm,
    stage,
    task,
)
from tests.toy_task import BrokenTask, TerminatedTask, ToyTask


@pytest.fixture(scope="module", autouse=True)
def own_ray(s3_server):
    """A Ray such as a job starts, with as few CPUs as the largest of these trainings asks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAFP_OWN_RAY", "1")
        start_local(2)
        yield
        ray.shutdown()


def config(*args, **kwargs):
    return toy_runs.config(*args, num_workers=1, **kwargs)


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(stage(folder), config(), task(shards))
    return folder


def threads_of_earlier_trainings() -> list[str]:
    """Returns the names of this process's threads that have not ended within a while.

    A reader's thread may be reading a clip when its training ends.
    """
    deadline = time.monotonic() + 20
    while True:
        names = {thread.name for thread in threading.enumerate()}
        if not (left := names - {"MainThread", "PythonGCThread"}) or time.monotonic() > deadline:
            return sorted(left)
        time.sleep(0.05)


class ProcessTask(ToyTask):
    """Saves what its process is, too."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._left = threads_of_earlier_trainings()  # its own threads start later

    def save(self, module, uri, metrics):
        super().save(module, uri, metrics)
        found = {
            "pid": os.getpid(),
            "left": self._left,
            # The parent is the raylet, which starts all processes of Ray Train too.
            "ray_train": len(list(processes_below(os.getppid(), "RayTrain"))),
        }
        torch.save(found, f"{uri}/process.pt")


def process_of(folder: Path, cfg, shards: str) -> dict:
    """Trains, and returns what the worker's process was."""
    folder.mkdir(exist_ok=True)
    fit(stage(folder), cfg, task(shards, ProcessTask))
    return torch.load(folder / "process.pt")


@pytest.mark.slow  # test_trainer.py starts Ray Train, with two workers
def test_ray_train_starts_only_where_it_is_asked_and_the_weights_are_the_same(
    shards, undisturbed, tmp_path, monkeypatch
):
    assert process_of(tmp_path / "task", config(), shards)["ray_train"] == 0
    monkeypatch.delenv("LAFP_OWN_RAY")
    assert process_of(tmp_path / "group", config(), shards)["ray_train"] > 0
    for name in ("task", "group"):
        assert_same_run(tmp_path / name, undisturbed)


@pytest.mark.slow  # test_ingest.py compares what Ray Data feeds with a plain reader
def test_ray_data_feeds_the_same_clips_in_the_same_order(shards, undisturbed, tmp_path):
    fit(stage(tmp_path), config(mode="ray"), task(shards))
    assert_same_run(tmp_path, undisturbed)


def test_the_next_training_runs_in_the_same_process_which_keeps_nothing(shards, tmp_path):
    first = process_of(tmp_path / "first", config(), shards)
    with pytest.raises(ConfigError, match=r"^a user's mistake$"):
        fit(stage(tmp_path), config(), task(shards, BrokenTask, at_step=5, how="config"))
    second = process_of(tmp_path / "second", config(), shards)
    assert second["pid"] == first["pid"]
    assert second["left"] == []


def test_deepspeed_changes_nothing_for_the_next_training(shards, undisturbed, tmp_path):
    """ZeRO-3 replaces a function of torch."""
    (tmp_path / "zero").mkdir()
    fit(stage(tmp_path / "zero"), config(DeepSpeedConfig(zero_stage=3)), task(shards))
    fit(stage(tmp_path), config(), task(shards))
    assert_same_run(tmp_path, undisturbed)


def test_a_run_on_s3_resumes_from_s3(shards, s3_bucket, tmp_path):
    assert_resumes_from_s3(shards, s3_bucket, tmp_path, config)


def test_labels_of_nodes_are_refused_where_no_node_can_have_them(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.node_labels.*RAY_ADDRESS"):
        fit(stage(tmp_path), config(node_labels=("pool=gpu",)), task(shards))


def test_a_killed_worker_resumes_from_its_last_checkpoint(shards, undisturbed, tmp_path):
    assert_resumes_after_a_kill(shards, undisturbed, tmp_path, config())
    assert '"error"' in (tmp_path / "failures.jsonl").read_text()


def test_sigterm_to_the_driver_saves_a_checkpoint_and_stops(shards, undisturbed, tmp_path):
    cfg = config(checkpoint_every_steps=100)
    assert_saves_and_stops_at_sigterm(shards, undisturbed, tmp_path, cfg)


@pytest.mark.slow
def test_sigterm_to_the_worker_saves_before_it_is_killed(shards, undisturbed, tmp_path):
    terminated = task(shards, TerminatedTask, folder=str(tmp_path), at_step=5)
    metrics = fit(stage(tmp_path), config(checkpoint_every_steps=100), terminated)
    (resumed_from,) = metrics["resumed_from_steps"]
    assert 5 < resumed_from <= 5 + TerminatedTask.STEPS_LEFT
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_process_that_waits_for_the_next_training_ends_at_sigterm(shards, tmp_path):
    fit(stage(tmp_path), config(), task(shards, ProcessTask))
    pid = torch.load(tmp_path / "process.pt")["pid"]
    os.kill(pid, signal.SIGTERM)
    (tmp_path / "next").mkdir()
    fit(stage(tmp_path / "next"), config(), task(shards, ProcessTask))
    assert torch.load(tmp_path / "next" / "process.pt")["pid"] != pid


def test_a_users_mistake_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"shard_set\.json is missing"):
        fit(stage(tmp_path / "run"), config(), task(str(tmp_path)))


@pytest.mark.parametrize(("how", "words", "starts"), FAILURES)
def test_a_worker_that_fails_stops_the_run_with_its_reason(shards, tmp_path, how, words, starts):
    assert_fails(shards, tmp_path, config(max_failures=1), how, words, starts)


def test_a_full_storage_is_not_tried_again_and_keeps_what_is_stored(shards, tmp_path):
    """Room for one checkpoint and not for two: the run ends, and could go on from step 4."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    try:
        large = task(shards, width=64)  # 1.2 MiB with Adam's moments
        with pytest.raises(JobError, match=r"(?s)No space left.*MiB are free.*again to resume"):
            fit(stage(disk), config(), large)
        assert [start["step"] for start in read_starts(str(disk))] == [0]
        assert is_whole(f"{disk}/checkpoints/step-000000004")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
