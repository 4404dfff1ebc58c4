"""Whatever is killed, full or cut off: the same command ends with an undisturbed run's clips."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from data_pipelines.preprocess.config import PreprocessConfig
from lafp import storage
from lafp.config import load_config
from tests.cable import Cable
from tests.made_shard_set import make_shard_set
from tests.shard_tables import table_file
from tests.signals import hear_interrupts
from tests.synthetic_video import moving_square, write_video

ROOT = Path(__file__).parents[3]
CONFIG = "configs/preprocess/videos.yaml"
OVERRIDES = [
    *("clip.min_frames=8", "clip.max_s=3", "tasks.videos_per_task=2"),
    *("shards.max_bytes=200000", "filters.drop_duplicates=false"),
]
RAY_STOPS_S = 20.0


def write_source(folder: Path, num_videos: int) -> Path:
    folder.mkdir()
    for i in range(num_videos):
        write_video(folder / f"{i:03d}.mp4", moving_square(60 + i, 160, 240, seed=i))
    (folder / "bad.mp4").write_text("<html>404</html>")
    return folder


def start(source: Path | str, runs: Path | str, log: Path, **env: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ray_jobs.preprocess", CONFIG, f"source={source}", *OVERRIDES]
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command, "--run-name", "run", "--storage", str(runs)],
            cwd=ROOT, stdout=file, stderr=file,
            env=os.environ | {"RAY_ADDRESS": ""} | env, start_new_session=True,
            preexec_fn=hear_interrupts,
        )  # fmt: skip


def complete(source: Path | str, runs: Path | str, log: Path, **env: str) -> None:
    """Runs the job to its end. Ray gives up starting after 30 s, which a busy machine may take."""
    for _ in range(5):
        log.unlink(missing_ok=True)
        status = start(source, runs, log, **env).wait(600)
        text = log.read_text()
        if status == 0:
            return
        assert "node timed out during startup" in text, text[-3000:]
    raise AssertionError("Ray does not start on this machine")


def result(runs: Path) -> dict[str, str]:
    """Every shard, by the hash of its bytes, and the tables' rows."""
    folder = runs / "run/shards/videos"
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.tar"))
    }
    for name in ("clips", "rejects"):
        found[name] = str(pq.read_table(folder / table_file(name)).to_pylist())
    return found


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """The driver, its Ray, the workers, and their sandboxes."""
    try:
        driver = psutil.Process(process.pid)
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def is_kind(process: psutil.Process, kind: str) -> bool:
    try:
        command = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return {
        "sandbox": "data_pipelines.preprocess.sandbox.process" in command,
        "worker": command.startswith("ray::make_"),
        "raylet": "raylet/raylet" in command,
        "driver": "ray_jobs.preprocess" in command,
    }[kind]


def kill_one(kind: str, process: subprocess.Popen, rng: random.Random) -> bool:
    """Kills one process of a kind, or all; returns whether there was one."""
    members = family(process)
    victims = members if kind == "node" else [p for p in members if is_kind(p, kind)]
    if not victims:
        return False
    kill(victims if kind == "node" else [rng.choice(victims)])
    if kind in ("driver", "raylet", "node"):
        if kind == "raylet":
            with suppress(subprocess.TimeoutExpired):  # Ray waits for its node to come back
                process.wait(RAY_STOPS_S)
        kill(members)
        process.wait()
    return True


def interrupted_run(
    source: Path, runs: Path, kinds: list[str], rng: random.Random, ray_address: str = "local"
) -> None:
    """Runs the job until it is complete, killing one process of each kind meanwhile."""
    log, waiting = runs.with_suffix(".log"), list(kinds)
    begin = partial(start, source, runs, log, RAY_ADDRESS=ray_address)
    process = begin()
    deadline = time.monotonic() + 2400
    while waiting:
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        if process.poll() is not None:
            if process.returncode == 0:
                raise AssertionError(f"The job was done before the kills of {waiting}")
            process = begin()
        work = runs / "run/shards/videos/work"
        num_parts = len(list(work.glob("*/part-*.json")))
        time.sleep(rng.uniform(0, 0.3))
        if num_parts > len(kinds) - len(waiting) and kill_one(waiting[0], process, rng):
            waiting.pop(0)
    while process.poll() != 0:
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        if process.poll() is not None:
            process = begin()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("source") / "source", 16)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, str]:
    """Made without Ray, as one part."""
    runs = tmp_path_factory.mktemp("expected")
    cfg = load_config(PreprocessConfig, ROOT / CONFIG, OVERRIDES)
    make_shard_set(cfg, source, runs / "run/shards/videos")
    return result(runs)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Callable[[Path], dict[str, str]]:
    def run(source: Path) -> dict[str, str]:
        runs = tmp_path_factory.mktemp("undisturbed")
        complete(source, runs, runs.with_suffix(".log"))
        return result(runs)

    return run


def test_three_kills_lose_nothing_and_do_nothing_twice(tmp_path, source, expected):
    interrupted_run(source, tmp_path / "runs", ["sandbox", "worker", "node"], random.Random(0))
    assert result(tmp_path / "runs") == expected
    assert not (tmp_path / "runs/run/shards/videos/work").exists()


def test_nor_do_kills_of_a_job_without_ray(tmp_path, source, expected):
    kinds = ["sandbox", "driver", "sandbox"]
    interrupted_run(source, tmp_path / "runs", kinds, random.Random(0), ray_address="")
    assert result(tmp_path / "runs") == expected


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_signal_ends_a_job_without_ray_at_once_and_leaves_nothing(tmp_path, number, status):
    source, log, scratch = tmp_path / "source", tmp_path / "log", tmp_path / "tmp"
    source.mkdir()
    scratch.mkdir()
    # Long enough that a task is in the middle of a video whenever it is interrupted.
    write_video(source / "long.mp4", moving_square(6_000, 160, 240))
    process = start(source, tmp_path / "runs", log, TMPDIR=str(scratch))
    while not (busy := [p for p in family(process) if is_kind(p, "sandbox")]) or (
        busy[0].cpu_times().user < 1.0
    ):
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.05)
    members, begin_s = family(process), time.monotonic()
    os.killpg(process.pid, number)  # as a terminal does
    assert process.wait(60) == status, log.read_text()[-3000:]
    assert time.monotonic() - begin_s < 20.0
    _, alive = psutil.wait_procs(members, 10.0)
    assert not alive
    text = log.read_text()
    assert "Traceback" not in text
    assert ("Interrupted. Run the same command again to resume." in text) == (status == 130)
    folder = tmp_path / "runs/run/shards/videos"
    assert not list(scratch.iterdir()) and not list(folder.glob(".lease*"))
    # What was interrupted is no reject of the video.
    assert not list((folder / "work").glob("*/part-*"))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_kills_lose_nothing_and_do_nothing_twice(tmp_path, undisturbed):
    source = write_source(tmp_path / "source", 40)
    expected = undisturbed(source)
    rng = random.Random(1)
    kinds = ["sandbox", "worker", "driver", "node", "raylet"] * 4
    rng.shuffle(kinds)
    for number in range(4):
        runs = tmp_path / f"runs{number}"
        interrupted_run(source, runs, kinds[5 * number : 5 * number + 5], rng)
        assert result(runs) == expected


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_with_a_clear_error_and_more_room_goes_on(
    tmp_path, small_disk, source, expected
):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1984 * 2**10))
    log = tmp_path / "log"
    process = start(source, small_disk, log)
    assert process.wait(300) == 1, log.read_text()[-3000:]
    text = log.read_text()
    assert "No space left on device" in text and "same command again to resume" in text
    assert "Traceback" not in text
    filler.unlink()
    complete(source, small_disk, log)
    assert result(small_disk) == expected


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_lost_connection_to_s3_stops_with_a_clear_error_and_goes_on_when_it_is_back(
    tmp_path, s3_server, s3_bucket, undisturbed
):
    source = write_source(tmp_path / "source", 24)
    cable = Cable(int(s3_server["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{cable.port}"}
    log, uri = tmp_path / "log", storage.join(s3_bucket, "run/shards/videos")
    process = start(source, s3_bucket, log, **endpoint)
    deadline = time.monotonic() + 900
    while sum(".json" in f.uri for f in storage.list_files(storage.join(uri, "work/000000"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    cable.pull()
    assert process.wait(900) == 1, log.read_text()[-3000:]
    text = log.read_text()
    assert "Could not" in text and "same command again to resume" in text
    assert "Traceback" not in text
    cable.is_plugged = True
    complete(source, s3_bucket, log, **endpoint)
    for info in storage.list_files(uri):
        path = tmp_path / "copy/run/shards/videos" / info.uri.removeprefix(f"{uri}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read_bytes(info.uri))
    assert result(tmp_path / "copy") == undisturbed(source)
