"""Runs of the toy task, and whether two of them are the same."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from lafp import storage
from lafp.runs.run_dir import StageDir
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.engines.ddp import DdpConfig
from lafp.train.metrics.log import read_metrics
from ray_jobs.training.trainer import fit
from tests.toy_task import ToyTask

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
