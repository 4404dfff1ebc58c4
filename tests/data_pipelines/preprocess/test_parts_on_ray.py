"""What the tasks that make parts leave behind in Ray's workers, which later stages use too."""

import time
from pathlib import Path

import psutil
import pytest
import ray

from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.parts import make_parts, read_made_parts
from data_pipelines.preprocess.plan import make_plan
from ray_jobs.core.cluster import start_local
from tests.synthetic_video import moving_square, write_video


@pytest.fixture(scope="module", autouse=True)
def ray_of_the_tests():
    start_local(2)
    yield
    ray.shutdown()


def decoders() -> list[psutil.Process]:
    """The processes that decode for Ray's workers, without those that have ended."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE
        and "data_pipelines.preprocess.sandbox.process" in process.cmdline()
    ]


def made_parts(cfg: PreprocessConfig, work: Path) -> None:
    plan = make_plan(list_inputs(cfg), cfg.tasks, str(work))
    make_parts(cfg, plan)
    made = list(read_made_parts(plan))
    assert len(made) == 3 and all(item.clips and not item.rejects for item in made)


def test_decoders_end_when_all_parts_are_made_and_start_again_for_others(tmp_path):
    (tmp_path / "source").mkdir()
    for number in range(3):
        write_video(tmp_path / f"source/{number}.mp4", moving_square(60, seed=number))
    cfg = PreprocessConfig(source=str(tmp_path / "source"), clip=ClipConfig(min_frames=8))
    made_parts(cfg, tmp_path / "first")
    assert decoders()
    deadline = time.monotonic() + 120
    while decoders():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    made_parts(cfg, tmp_path / "second")
    assert decoders()
