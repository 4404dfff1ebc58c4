"""Runs of the toy task, and whether two of them are the same."""

import os
import re
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from lafp import storage
from lafp.runs.run_dir import StageDir
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.engines.ddp import DdpConfig
from lafp.train.metrics.log import read_metrics, read_starts
from ray_jobs.core.job import JobError
from ray_jobs.training.trainer import fit
from tests.toy_task import BrokenTask, KillingTask, TerminatedTask, ToyTask

NUM_STEPS, CHECKPOINT_EVERY = 12, 4


def config(engine=None, mode: str = "direct", **kwargs) -> TrainConfig:
    defaults = {
        "num_steps": NUM_STEPS,
        "global_batch_size": 16,
        "num_workers": 2,
        "report_every_steps": 1,
        "checkpoint_every_steps": CHECKPOINT_EVERY,
        "evaluate_every_steps": 100,
        "ingest": IngestConfig(mode=mode),
    }
    return TrainConfig(engine=engine or DdpConfig(), **defaults | kwargs)


def task(shards: str, task_class=ToyTask, **kwargs):
    return partial(task_class, shards, clips_per_step=8, **kwargs)


def stage(folder: Path) -> StageDir:
    return StageDir(str(folder), "lam")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "toy.pt")


def assert_same_run(folder: Path, reference: Path) -> None:
    for name, value in weights(folder).items():
        assert torch.equal(value, weights(reference)[name]), name
    steps, losses = zip(*((r["step"], r["loss"]) for r in read_metrics(str(folder))), strict=True)
    assert list(steps) == list(range(1, NUM_STEPS + 1))
    assert list(losses) == [record["loss"] for record in read_metrics(str(reference))]


def assert_resumes_from_s3(
    shards: str, bucket: str, folder: Path, config: Callable[..., TrainConfig]
) -> None:
    began_at = time.time()
    on_s3 = StageDir(f"{bucket}/run/lam", "lam")
    to_file = task(shards, export_to=str(folder))
    fit(on_s3, config(num_steps=4), to_file)
    metrics = fit(on_s3, config(num_steps=8), to_file)
    assert metrics["resumed_from_steps"] == [4]
    assert storage.list_folders(on_s3.uri) == ["checkpoints"], "Ray keeps its own state elsewhere"
    leftovers = Path(tempfile.gettempdir()).glob("lafp-restored-*")
    assert not [folder for folder in leftovers if folder.stat().st_mtime > began_at]
    assert [record["step"] for record in read_metrics(on_s3.uri)] == list(range(1, 9))
    assert (folder / "toy.pt").is_file()


def assert_resumes_after_a_kill(
    shards: str, undisturbed: Path, folder: Path, cfg: TrainConfig
) -> None:
    killing = task(
        shards,
        KillingTask,
        folder=str(folder),
        rank=0,
        at_step=CHECKPOINT_EVERY + 2,
        saved_step=CHECKPOINT_EVERY,
    )
    metrics = fit(stage(folder), cfg, killing)
    assert metrics["resumed_from_steps"] == [CHECKPOINT_EVERY]
    assert_same_run(folder, undisturbed)


def assert_saves_and_stops_at_sigterm(
    shards: str, undisturbed: Path, folder: Path, cfg: TrainConfig
) -> None:
    terminated = task(shards, TerminatedTask, folder=str(folder), pid=os.getpid(), at_step=3)
    with pytest.raises(JobError, match=r"Stopped at step \d+ of 12.*again to resume") as stop:
        fit(stage(folder), cfg, terminated)
    metrics = fit(stage(folder), cfg, terminated)
    assert metrics["resumed_from_steps"] == [int(re.search(r"step (\d+)", str(stop.value))[1])]
    assert_same_run(folder, undisturbed)


FAILURES = [
    ("nan", r"The loss of step 5 is not finite.*begin with", [0]),
    ("raise", r"(?s)lam: .*toy_task\.py.*a broken task.*Run the same command", [0, 4]),
]
"""How ``BrokenTask`` fails, what the user is told, and the steps from which it was started."""


def assert_fails(
    shards: str, folder: Path, cfg: TrainConfig, how: str, words: str, starts: list[int]
) -> None:
    broken = task(shards, BrokenTask, at_step=5, how=how)
    with pytest.raises(JobError, match=words):
        fit(stage(folder), cfg, broken)
    assert [start["step"] for start in read_starts(str(folder))] == starts
