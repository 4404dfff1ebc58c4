"""Training on a real local Ray: engines, ingest, death and resume."""

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import torch

from lafp.config import ConfigError
from lafp.data.randomness import derive_seed
from lafp.train.config import IngestConfig
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.metrics.log import read_metrics, read_starts
from ray_jobs.core.cluster import Resources, start_local
from ray_jobs.core.job import JobError
from ray_jobs.training.progress import remarks
from ray_jobs.training.resources import resources
from ray_jobs.training.trainer import fit
from tests.process_group import group_of_two, run_two
from tests.processes import kill_one_below
from tests.ray_jobs.training.toy_runs import (
    CHECKPOINT_EVERY,
    NUM_STEPS,
    assert_resumes_from_s3,
    assert_same_run,
    config,
    stage,
    task,
    weights,
)
from tests.toy_task import BrokenTask, GroupContext, KillingTask, TerminatedTask


@pytest.fixture(scope="module", autouse=True)
def local_ray(s3_server):
    """As few CPUs as the largest job asks for: a job that needs more than it says would hang."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAFP_OWN_RAY", "1")  # as where a job has started it
        start_local(4)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Path:
    """A whole run on ddp, read directly, by two processes that know nothing of Ray."""
    root = tmp_path_factory.mktemp("undisturbed")
    run_two(train_without_ray, shards, root, root / "run")
    return root / "run"


def train_without_ray(rank: int, shards: str, root: Path, folder: Path) -> None:
    with group_of_two(rank, root / "store"):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(derive_seed(config().seed, "init"))
        metrics = train(config(), task(shards)(), GroupContext(str(folder)))
        assert metrics["step"] == NUM_STEPS


@pytest.mark.slow  # test_ingest.py compares what Ray Data feeds with a plain reader
def test_ray_data_feeds_the_same_clips_in_the_same_order(shards, undisturbed, tmp_path):
    fit(stage(tmp_path), config(mode="ray"), task(shards))
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow  # without Ray, tests/lafp/train/test_engines.py compares every ZeRO stage
def test_deepspeed_trains_on_ray_as_ddp_does(shards, undisturbed, tmp_path):
    cfg = config(DeepSpeedConfig(zero_stage=3), mode="ray")
    metrics = fit(stage(tmp_path), cfg, task(shards))
    assert metrics["step"] == NUM_STEPS
    assert_nearly_the_same_weights(tmp_path, undisturbed)


def assert_nearly_the_same_weights(folder: Path, reference: Path) -> None:
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, weights(reference)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("engine", "rank", "mode"),
    [
        (DdpConfig(), 1, "direct"),
        pytest.param(DdpConfig(), 0, "ray", marks=pytest.mark.slow),
        pytest.param(DeepSpeedConfig(zero_stage=2), 0, "ray", marks=pytest.mark.slow),
        pytest.param(DeepSpeedConfig(zero_stage=2), 1, "ray", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_worker_killed_right_after_a_checkpoint_resumes_from_it(
    shards, undisturbed, tmp_path, engine, rank, mode
):
    """What is stored counts: nobody has to hear of it from the worker first."""
    killing = task(
        shards,
        KillingTask,
        folder=str(tmp_path),
        rank=rank,
        at_step=CHECKPOINT_EVERY,
        saved_step=CHECKPOINT_EVERY,
    )
    metrics = fit(stage(tmp_path), config(engine, mode=mode), killing)
    assert metrics["resumed_from_steps"] == [CHECKPOINT_EVERY]
    if engine.name == "ddp":
        assert_same_run(tmp_path, undisturbed)
    else:
        assert_nearly_the_same_weights(tmp_path, undisturbed)


@pytest.mark.slow  # a lone worker does the same, in test_worker_task.py
def test_sigterm_saves_a_checkpoint_that_the_next_start_goes_on_from(shards, undisturbed, tmp_path):
    """This process is the driver. Without the checkpoint the run would begin anew.

    Who starts the workers and how they are fed is no part of a run's state.
    """
    cfg = config(mode="ray", checkpoint_every_steps=100)
    before = signal.getsignal(signal.SIGTERM)
    terminated = task(shards, TerminatedTask, folder=str(tmp_path), pid=os.getpid(), at_step=3)
    with pytest.raises(JobError, match=r"Stopped at step \d+ of 12.*again to resume") as stop:
        fit(stage(tmp_path), cfg, terminated)
    assert signal.getsignal(signal.SIGTERM) is before
    stopped_at = int(re.search(r"step (\d+)", str(stop.value))[1])
    assert 3 < stopped_at < NUM_STEPS
    run_two(train_without_ray, shards, tmp_path, tmp_path)
    assert [start["step"] for start in read_starts(str(tmp_path))] == [0, stopped_at]
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_sigterm_to_one_worker_saves_before_its_machine_goes(shards, undisturbed, tmp_path):
    """As a spot node's processes get it, seconds before they are killed."""
    cfg = config(checkpoint_every_steps=100)
    terminated = task(shards, TerminatedTask, folder=str(tmp_path), at_step=5)
    metrics = fit(stage(tmp_path), cfg, terminated)
    (resumed_from,) = metrics["resumed_from_steps"]
    assert 5 < resumed_from <= 5 + TerminatedTask.STEPS_LEFT
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_worker_killed_between_checkpoints_repeats_only_what_is_lost(
    shards, undisturbed, tmp_path
):
    killing = task(shards, KillingTask, folder=str(tmp_path), rank=1, at_step=10, saved_step=8)
    metrics = fit(stage(tmp_path), config(), killing)
    assert metrics["resumed_from_steps"] == [8]
    assert_same_run(tmp_path, undisturbed)
    assert '"error"' in (tmp_path / "failures.jsonl").read_text()


@pytest.mark.slow
def test_a_killed_reader_is_replaced_and_nothing_is_lost(shards, undisturbed, tmp_path):
    with ThreadPoolExecutor() as pool:
        killing = pool.submit(kill_one_below, os.getpid(), "MapWorker", timeout_s=60)
        fit(stage(tmp_path), config(mode="ray"), task(shards))
        killing.result()
    assert_same_run(tmp_path, undisturbed)


@pytest.mark.slow
def test_running_again_continues_on_another_number_of_workers(shards, tmp_path):
    fit(stage(tmp_path), config(num_steps=8), task(shards))
    metrics = fit(stage(tmp_path), config(num_workers=1), task(shards))
    assert metrics["resumed_from_steps"] == [8]
    steps = [record["step"] for record in read_metrics(str(tmp_path))]
    assert steps == list(range(1, NUM_STEPS + 1))


@pytest.mark.slow  # a lone worker does the same, in test_worker_task.py
def test_a_run_on_s3_resumes_from_s3(shards, s3_bucket, tmp_path):
    assert_resumes_from_s3(shards, s3_bucket, tmp_path, config)


@pytest.mark.slow
def test_only_as_many_checkpoints_are_kept_as_asked_for(shards, tmp_path):
    cfg = config(num_workers=1, checkpoint_every_steps=2, num_checkpoints_to_keep=2)
    fit(stage(tmp_path), cfg, task(shards))
    kept = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-000000010", "step-000000012"]


@pytest.mark.slow  # the next test has a mistake of a user, too
def test_a_users_mistake_found_by_a_worker_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"shard_set\.json is missing"):
        fit(stage(tmp_path / "run"), config(num_workers=1), task(str(tmp_path)))


def test_a_mistake_that_one_worker_finds_while_the_other_waits_is_not_tried_again(shards, tmp_path):
    broken = task(shards, BrokenTask, at_step=5, how="config")
    with pytest.raises(ConfigError, match=r"^a user's mistake$"):
        fit(stage(tmp_path), config(), broken)
    assert len(read_starts(str(tmp_path))) == 1


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_run_ends_as_if_it_had_been_whole(
    shards, undisturbed, tmp_path, capfd
):
    fit(stage(tmp_path), config(num_steps=8), task(shards))
    (tmp_path / "checkpoints/step-000000008/ddp.pt").write_bytes(b"truncated")
    metrics = fit(stage(tmp_path), config(), task(shards))
    assert metrics["resumed_from_steps"] == [4]
    assert_same_run(tmp_path, undisturbed)
    assert "[lam] The checkpoint of step 8 is damaged: ddp.pt does not" in capfd.readouterr().err
    assert (tmp_path / "checkpoints/damaged-step-000000008").is_dir()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_not_tried_again(shards, tmp_path):
    broken = task(shards, BrokenTask, at_step=5, how="nan")
    with pytest.raises(JobError, match=r"The loss of step 5 is not finite.*begin with"):
        fit(stage(tmp_path), config(), broken)
    assert len(read_starts(str(tmp_path))) == 1


@pytest.mark.slow
def test_a_worker_that_keeps_failing_stops_the_run_with_its_reason(shards, tmp_path):
    broken = task(shards, BrokenTask, at_step=5, how="raise")
    with pytest.raises(JobError, match=r"(?s)lam: .*a broken task.*Run the same command"):
        fit(stage(tmp_path), config(num_workers=1, max_failures=1), broken)
    assert [start["step"] for start in read_starts(str(tmp_path))] == [0, 4]


def test_a_collapse_and_skipped_steps_are_said_once_with_their_step(tmp_path):
    collapsed = {"val/latent/spread": 0.0, "probe/r2": 0.1, "probe/r2_low": 0.0}
    records = [
        {"step": 10, "loss": 1.0, "skipped_steps": 0},
        {"step": 20} | collapsed | {"probe/r2_obs_embedding": -0.5},
        {"step": 30} | collapsed | {"probe/r2_obs_embedding": 0.7},
        {"step": 40, "skipped_steps": 2},
        {"step": 50, "skipped_steps": 3},
    ]
    said, lines = set(), []
    for num_records in (1, 2, 3, 3, 4, 5):
        lines += remarks(stage(tmp_path), records[:num_records], 1, said)
    assert [line.partition(":")[0] for line in lines] == [f"[lam] step {s}" for s in (20, 30, 40)]
    assert "latent actions are constant" in lines[0] and "0.10 against 0.70" in lines[1]
    assert "skipped_steps.jsonl" in lines[2]


def test_the_demand_counts_workers_and_readers():
    assert resources(config(num_workers=2)) == Resources(num_cpus=2)
    cfg = config(num_workers=2, ingest=IngestConfig(mode="ray", num_readers=3), use_gpu=True)
    assert resources(cfg) == Resources(num_cpus=8, num_gpus=2)
