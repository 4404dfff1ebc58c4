"""Training whose only worker is a process of its own, without Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lafp.config import ConfigError
from ray_jobs.core.job import JobError
from ray_jobs.training.trainer import fit
from tests.ray_jobs.training import toy_runs
from tests.ray_jobs.training.toy_runs import (
    FAILURES,
    assert_fails,
    assert_resumes_after_a_kill,
    assert_saves_and_stops_at_sigterm,
    stage,
    task,
)
from tests.toy_task import ToyTask

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def config(*args, **kwargs):
    return toy_runs.config(*args, num_workers=1, **kwargs)


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(stage(folder), config(), task(shards))
    return folder


def test_a_killed_worker_resumes_from_its_last_checkpoint(shards, undisturbed, tmp_path):
    assert_resumes_after_a_kill(shards, undisturbed, tmp_path, config())
    assert "ended with signal 9 (Killed)" in (tmp_path / "failures.jsonl").read_text()


class ForkingTask(ToyTask):
    """Starts a process that keeps the worker's files open, and crashes."""

    def prepare(self, device):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        print("before the crash", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)


def test_a_worker_that_crashes_is_noticed_whatever_it_has_started(shards, tmp_path):
    words = r"(?s)signal 11.*before the crash.*Current thread"
    with pytest.raises(JobError, match=words):
        fit(stage(tmp_path), config(max_failures=0), task(shards, ForkingTask))


def test_sigterm_to_the_driver_saves_a_checkpoint_and_stops(shards, undisturbed, tmp_path):
    cfg = config(checkpoint_every_steps=100)
    assert_saves_and_stops_at_sigterm(shards, undisturbed, tmp_path, cfg)


def test_a_users_mistake_is_a_config_error(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"shard_set\.json is missing"):
        fit(stage(tmp_path / "run"), config(), task(str(tmp_path)))
    with pytest.raises(ConfigError, match=r"train\.node_labels.*RAY_ADDRESS"):
        fit(stage(tmp_path), config(node_labels=("pool=gpu",)), task(shards))
    with pytest.raises(ConfigError, match=r"this machine has no GPU"):
        fit(stage(tmp_path), config(use_gpu=True), task(shards))


@pytest.mark.parametrize(("how", "words", "starts"), FAILURES)
def test_a_worker_that_fails_stops_the_run_with_its_reason(shards, tmp_path, how, words, starts):
    assert_fails(shards, tmp_path, config(max_failures=1), how, words, starts)


def command(shards: str, folder: Path, *changes: str) -> list[str]:
    train = ["train.ingest.mode=direct", "train.optim.warmup_steps=0", "train.global_batch_size=8"]
    where = ["--storage", str(folder), "--run-name", "run"]
    lam = ["configs/train_lam/lapo_debug.yaml", f"shards={shards}", *train, *changes]
    return [sys.executable, "-m", "ray_jobs.train_lam", *lam, *where]


def run_without_ray(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a command whose Python finds all packages but Ray, DeepSpeed and wandb."""
    names = ("ray", "deepspeed", "wandb")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({names})\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)


def test_a_training_needs_no_installed_ray(shards, tmp_path):
    run = run_without_ray(command(shards, tmp_path, "train.num_steps=2"), tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run/lam/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train.ingest.mode=ray", "this job needs Ray, which is not installed"),
        ("train.engine={name: deepspeed}", "train chooses deepspeed, which is not installed"),
        ("train.tracker={name: wandb}", "train chooses wandb, which is not installed"),
    ],
)
def test_what_a_training_needs_and_is_not_installed_is_named(shards, tmp_path, change, words):
    run = run_without_ray(command(shards, tmp_path, change), tmp_path)
    assert run.returncode == 2 and words in run.stderr, run.stderr
    assert "Traceback" not in run.stderr


def test_the_worker_ends_when_its_driver_is_killed(shards, tmp_path):
    process = subprocess.Popen(
        command(shards, tmp_path, "train.num_steps=100000"),
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(lambda: (tmp_path / "run/lam/starts.jsonl").is_file())
        (worker,) = psutil.Process(process.pid).children()
    finally:
        process.kill()
        process.wait()
    _wait(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def _wait(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
