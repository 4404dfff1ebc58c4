"""The tasks of `preprocess`: on Ray, or in threads as in `python -m ray_jobs.preprocess` alone."""

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from data_pipelines.preprocess import job
from data_pipelines.preprocess.clip.masks import MasksConfig
from data_pipelines.preprocess.config import PreprocessConfig, TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import select
from data_pipelines.preprocess.plan import make_plan
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.run_tasks import num_at_a_time, run_tasks
from lafp.config import ConfigError
from lafp.runs.run_dir import RunDir
from ray_jobs.preprocess import JOB
from tests.synthetic_video import moving_square, write_video

ROOT = Path(__file__).parents[3]
CFG = TasksConfig()


@pytest.fixture(autouse=True)
def four_cores_without_ray(monkeypatch):
    """Other tests of this process may have a Ray."""
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))


def test_all_calls_run_at_most_as_many_at_a_time_as_fit():
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return number**2

    done = dict(run_tasks(work, ((n, (n,)) for n in range(20)), CFG))
    assert done == {n: n**2 for n in range(20)}
    assert most == num_at_a_time(CFG.memory_bytes)


def test_a_result_may_lead_to_more_calls():
    waiting = iter([3])
    found: list[tuple[str, tuple[object, ...]]] = []

    class Calls:
        def __iter__(self):
            return self

        def __next__(self):
            if found:
                return found.pop()
            return next(("first", (n,)) for n in waiting)

    names = []
    for name, result in run_tasks(lambda n: n + 1, Calls(), CFG):
        names.append((name, result))
        if name == "first":
            found.append(("second", (result,)))
    assert names == [("first", 4), ("second", 5)]


def test_a_call_that_fails_and_a_caller_that_leaves_stop_the_others():
    ended = threading.Event()

    def work(is_bad: bool) -> bool:
        if is_bad:
            raise OSError("gone")
        return ended.wait(60)

    begin_s = time.monotonic()
    with pytest.raises(OSError, match="gone"):
        list(run_tasks(work, [(0, (True,)), (1, (False,))], CFG, stop=ended.set))
    ended.clear()
    calls = run_tasks(lambda n: n or work(False), [(0, (1,)), (1, (0,))], CFG, stop=ended.set)
    assert next(calls) == (0, 1)
    calls.close()
    assert time.monotonic() - begin_s < 30


def test_a_call_that_begins_while_the_others_are_stopped_is_stopped_too():
    begun, ended, stops = threading.Event(), threading.Event(), []

    def work(is_bad: bool) -> bool:
        if is_bad:
            raise OSError("gone")
        time.sleep(0.5)  # has nothing yet that could be stopped
        begun.set()
        return ended.wait(60)

    def stop() -> None:
        stops.append(begun.is_set())
        if begun.is_set():
            ended.set()

    begin_s = time.monotonic()
    with pytest.raises(OSError, match="gone"):
        list(run_tasks(work, [(0, (False,)), (1, (True,))], CFG, stop=stop))
    assert stops[0] is False and stops[-1] is True
    assert time.monotonic() - begin_s < 30


def test_memory_bounds_the_number_of_tasks():
    assert num_at_a_time(1) >= num_at_a_time(512 * 2**20) >= 1
    assert num_at_a_time(2**50) == 1


PROGRAM = """
import sys
from functools import partial
from data_pipelines.preprocess import job
from ray_jobs import preprocess
from ray_jobs.core.cli import main

if sys.argv.pop() == "large":
    job.select = partial(job.select, in_process_bytes=0)
main(preprocess.JOB, preprocess.COMMAND_LINE)
print("with Ray" if "ray" in sys.modules else "without Ray")
"""


def made(folder: Path, ray_address: str, size: str) -> tuple[str, dict[str, bytes]]:
    """Runs the job on the videos in the folder. Returns its output and its shards."""
    runs = folder / f"{size}-{ray_address}"
    arguments = ["configs/preprocess/videos.yaml", f"source={folder}/source", size]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--storage", str(runs), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
        env=os.environ | {"RAY_ADDRESS": ray_address},
    )
    assert result.returncode == 0, result.stderr
    shards = (runs / "videos/shards/videos").glob("*.tar")
    return result.stdout, {path.name: path.read_bytes() for path in shards}


def test_a_job_alone_does_not_import_ray_and_makes_the_shards_of_one_on_ray(tmp_path):
    (tmp_path / "source").mkdir()
    for number in range(3):
        write_video(tmp_path / f"source/{number}.mp4", moving_square(60, seed=number))
    (tmp_path / "source/bad.mp4").write_text("<html>404</html>")
    said, alone = made(tmp_path, "", "small")
    assert "without Ray" in said and "1 span" in said
    assert {name.partition("-")[0] for name in alone} == {"train", "val"}
    for ray_address, size in (("local", "small"), ("", "large")):
        said, on_ray = made(tmp_path, ray_address, size)
        assert "with Ray" in said
        assert on_ray == alone


def test_a_large_source_without_a_ray_is_said(tmp_path):
    items = [VideoItem(uri="a.mp4", num_bytes=1, split=None)]
    plan = make_plan(items, CFG, str(tmp_path))
    with pytest.raises(RuntimeError, match=r"selected on Ray\. Call ray\.init"):
        select(PreprocessConfig(source="a"), plan, str(tmp_path), FileCounts(), in_process_bytes=-1)


S3 = "s3://bucket/folder"


@pytest.mark.parametrize(
    ("cfg", "storage", "is_alone"),
    [
        ({"source": "videos"}, "runs", True),
        ({}, "runs", True),
        ({"source": "videos"}, S3, False),
        ({}, S3, False),
        ({"source": S3}, "runs", False),
        ({"source": "videos", "val_source": S3}, "runs", False),
        ({"source": "videos", "masks": MasksConfig(source=S3)}, "runs", False),
        (
            {"source": "a", "val_source": "b", "masks": MasksConfig(source="c", val_source=S3)},
            "runs",
            False,
        ),
        ({"source": "videos", "masks": MasksConfig(source="masks")}, "runs", True),
        ({"source": "videos", "tasks": TasksConfig(node_labels=("role=decode",))}, "runs", False),
    ],
)
def test_a_job_is_alone_only_if_all_that_it_reads_and_writes_is_local(cfg, storage, is_alone):
    assert JOB.can_be_alone(PreprocessConfig(**cfg), RunDir(f"{storage}/run")) is is_alone


@pytest.mark.parametrize(
    ("rows", "is_alone"),
    [
        (["a.mp4", "/videos/b.mp4", "# comment", "*.mkv", ""], True),
        (["a.mp4", "https://host/b.mp4"], False),
        (["a.mp4", "s3://bucket/b.mp4"], False),
        (["hf://datasets/user/set/b.mp4"], False),
    ],
)
def test_a_job_with_a_list_is_alone_if_all_files_in_it_are_local(tmp_path, rows, is_alone):
    (tmp_path / "list.txt").write_text("\n".join(rows))
    run = RunDir(str(tmp_path / "run"))
    listed, folder = str(tmp_path / "list.txt"), str(tmp_path)
    for cfg in (
        PreprocessConfig(source=listed),
        PreprocessConfig(source=folder, val_source=listed),
    ):
        assert JOB.can_be_alone(cfg, run) is is_alone


def test_a_ray_that_cannot_start_names_no_table_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    write_video(tmp_path / "source/a.mp4", moving_square(60))

    def start_ray() -> None:
        raise ConfigError("No Ray.")

    monkeypatch.setattr(job, "select", partial(job.select, in_process_bytes=-1))
    cfg = PreprocessConfig(source=str(tmp_path / "source"))
    with pytest.raises(ConfigError, match=r"^No Ray\.$"):
        job.preprocess(cfg, str(tmp_path / "set"), start_ray)
