"""A selection on Ray Data whose driver is killed again and again comes to the same tables."""

import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.config import PreprocessConfig, TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import select
from lafp.storage import strict_json
from ray_jobs.core.cluster import start_local
from tests.data_pipelines.preprocess.test_scale import (
    made_parts,
    rows_of,
    write_known_set,
    write_looks,
)

ROOT = Path(__file__).parents[4]
NUM_VIDEOS, VIDEOS_PER_TASK = 24, 3
BLOCK_BYTES = 20_000
"""About two parts."""
LONGEST_S = 300.0
"""A start that takes longer hangs, on the busiest machine."""


@pytest.fixture(scope="module")
def ray_address():
    start_local(2)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


def write_source(folder: Path, known_uri: Path) -> None:
    """Writes parts with copied files and clips, a finished set, and what ``drive`` reads."""
    cfg = PreprocessConfig(
        source="synthetic",
        val_fraction=0.3,
        tasks=TasksConfig(videos_per_task=VIDEOS_PER_TASK),
        filters=FiltersConfig(drop_duplicates=True),
    )
    plan = made_parts(NUM_VIDEOS, folder, cfg)
    rows = [rows_of(number) for number in range(NUM_VIDEOS)]
    known = [rows_of(100 + number) for number in range(3)]
    rng, looks = np.random.default_rng(3), {}
    for number in range(0, NUM_VIDEOS, 3):
        shared = rng.random((6, 8, 8, 3), np.float32)
        clips = [rows[number].clips[0], rows[number + 1].clips[1], known[0].clips[number % 4]]
        looks |= {clip.record.clip_id: shared for clip in clips[: 3 if number % 2 else 2]}
    often = rng.random((6, 8, 8, 3), np.float32)
    looks |= {item.clips[3].record.clip_id: often for item in rows}
    write_looks(rows, folder / "work", looks)
    finished = write_known_set(known, known_uri, looks, clips_per_shard=5)
    # Two files of the first part have one content.
    (task, *_) = plan.tasks(0)
    same = replace(rows[1].videos[0], video_id=rows[0].videos[0].video_id)
    entry = [rows[0], replace(rows[1], videos=(same,)), *rows[2:VIDEOS_PER_TASK]]
    strict_json.write(str(folder / "work" / f"{task.part}.json"), entry)
    cfg = replace(cfg, filters=replace(cfg.filters, against=(finished,)))
    (folder / "call").write_bytes(pickle.dumps((cfg, plan)))


def run(folder: Path) -> None:
    """Selects, as a job that has made its parts does."""
    cfg, plan = pickle.loads((folder / "call").read_bytes())
    select(cfg, plan, str(folder), FileCounts(), BLOCK_BYTES, in_process_bytes=0)


def drive(folder: str, address: str) -> None:
    """Does so in a process of its own."""
    ray.init(address=address, log_to_driver=False)
    run(Path(folder))


def started(folder: Path, address: str) -> "subprocess.Popen[bytes]":
    code = f"from {__name__} import drive; drive({str(folder)!r}, {address!r})"
    with (folder / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=log, stderr=log)


def tables(folder: Path) -> dict[str, list[str]]:
    """The rows of each table, and the text of each record, of the one selection of a folder."""
    (selection,) = (folder / "work/select").iterdir()
    # Killed processes may leave other files, which go with the folder when the job ends.
    found = {
        path: sorted(map(str, pq.read_table(path).to_pylist()))
        for path in selection.rglob("*.parquet")
    }
    found |= {path: [path.read_text()] for path in selection.rglob("*.json")}
    return {str(path.relative_to(selection)): rows for path, rows in found.items()}


def steps(folder: Path) -> dict[Path, int]:
    """The lists of the steps that are complete, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("work/select/*/*.json")}


def of_complete_steps(folder: Path) -> dict[Path, int]:
    """When each file of these steps was written: before the last list."""
    last = max(steps(folder).values(), default=0)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("work/select/*/*/*.parquet")}
    return steps(folder) | {path: time for path, time in times.items() if time <= last}


SLOW = [pytest.param(seed, 15, 1, marks=pytest.mark.slow) for seed in (2, 3, 4)]


@pytest.mark.parametrize(("seed", "most_kills", "most_steps"), [(1, 3, 4), *SLOW])
def test_kills_change_nothing_and_no_complete_step_is_done_again(
    ray_address, tmp_path, seed, most_kills, most_steps
):
    """Each start is killed half a second after ``most_steps`` more steps at the latest."""
    folders = undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in folders:
        write_source(folder, tmp_path / "known")
    rng = random.Random(seed)
    times: dict[Path, int] = {}
    num_kills = 0
    while num_kills < most_kills:
        wanted = len(steps(killed)) + rng.randint(1, most_steps)
        driver, begin_s = started(killed, ray_address), time.monotonic()
        try:
            while driver.poll() is None and len(steps(killed)) < wanted:
                assert time.monotonic() - begin_s < LONGEST_S, (killed / "log").read_text()
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
        finally:
            driver.kill()
            driver.wait()
        found = of_complete_steps(killed)
        assert times.items() <= found.items(), num_kills
        if driver.returncode == 0:  # all steps were complete before it could be killed
            break
        assert driver.returncode == -signal.SIGKILL, (killed / "log").read_text()
        assert len(found) > len(times), num_kills
        times, num_kills = found, num_kills + 1
    assert num_kills >= 2
    assert started(killed, ray_address).wait(LONGEST_S) == 0, (killed / "log").read_text()
    run(undisturbed)
    assert times.items() <= of_complete_steps(killed).items()
    expected = tables(undisturbed)
    for step in ("copies", "dropped", "known"):
        assert any(rows for name, rows in expected.items() if name.startswith(f"{step}/"))
    assert tables(killed) == expected
