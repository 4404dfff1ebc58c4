"""Source frames per CPU second of `preprocess`, against doing the same by other means.

python -m tests.benchmarks.bench_preprocess [FOLDER] [--runs 5] [--copies 6]

Every contender turns the same real videos into 64 x 64 clips of 10 frames/s with the same encoder
settings; that their pictures agree is checked first. One JSON line each: `ratio` above 1 means that
`preprocess` is faster. It compares CPU seconds of all of a contender's processes, Ray's own
included, so that a busy machine does not decide; `wall_ratio` stands beside. All use every core.
Every file is taken several times, as copies that count as different files. A Ray runs only for
those that need one; that it starts is not counted.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import ray

from data_pipelines.preprocess.clip.filters.shots import ShotsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.config import PreprocessConfig, TasksConfig
from data_pipelines.preprocess.job import preprocess
from lafp.data.shards.format import ShardEntry
from lafp.storage import strict_json
from lafp.video import decode_clip
from tests.benchmarks import preprocess_rivals as rivals

CFG = PreprocessConfig(
    clip=ClipConfig(fps=rivals.FPS),
    resize=rivals.RESIZE,
    encode=rivals.ENCODE,
    # All is measured, nothing left out: rivals encode everything too.
    filters=FiltersConfig(min_motion=0.0, min_brightness=0.0),
    max_reject_fraction=1.0,
    tasks=TasksConfig(videos_per_task=4),
)
# What configs/preprocess/videos.yaml does beyond that, and no rival does.
WITH_SHOTS = replace(
    CFG,
    clip=ClipConfig(fps=rivals.FPS, max_frozen_s=2.0, shots=ShotsConfig(name="adaptive")),
    filters=replace(CFG.filters, drop_duplicates=True),
)
# Sound, upright, square pixels, constant rate, and readable by decord: what every rival can do.
FILES = (
    "internet/Video-LLaMA__dog_barking.mp4",
    "internet/Video-LLaVA__sample_demo_22.mp4",
    "internet/Video-LLaVA__sample_demo_3.mp4",
    "internet/decord__flipping_a_pancake.mkv",
    "internet/interactive-examples__cc0-videos_friday.mp4",
    "internet/sam2__gallery_04_coffee.mp4",
    "internet/sample-videos__asl_gestures_book.mkv",
    "internet/sample-videos__bottle-detection.mp4",
    "robot/bridgedata__gcbc_success.mp4",
    "robot/bridgedata__unseen_cloth_gcbc_fail.mp4",
    "robot/dexmimicgen__dp_can.mp4",
    "robot/gated-memory-policy__loc_3_ours.mp4",
    "robot/gated-memory-policy__loc_5_ours.mp4",
    "robot/gated-memory-policy__no_hist_dp_1.mp4",
    "robot/openvla__octo--cover_white_bowl_with_towel.mp4",
    "robot/peract__n100-open_drawer-s5.mp4",
    "robot/simpler-env__stack_green_cube_on_yellow_cube_real_2.mp4",
)
# Ignored by demuxers, and makes a copy's hash another: an empty box of MP4, a Void of Matroska.
_TRAILERS = {".mp4": b"\0\0\0\x0cfree", ".mkv": b"\xec\x84"}
# Mean absolute difference of two frames in levels of 255: of all frames in the median, and of most.
# ffmpeg, which scales in YUV, comes to 2 and 3 where the frames are the same ones.
MAX_MEDIAN_DIFFERENCE, MAX_DIFFERENCE, MIN_SHARE = 3.0, 8.0, 0.98


def copies(folder: Path, target: Path, num: int) -> list[list[Path]]:
    """The files, ``num`` times, no two with the same content."""
    made: list[list[Path]] = []
    for number in range(num):
        made.append([])
        for name in map(Path, FILES):
            path = target / f"{number}_{name.name}"
            trailer = _TRAILERS[name.suffix] + number.to_bytes(4, "big")
            path.write_bytes((folder / name).read_bytes() + trailer)
            made[-1].append(path)
    return made


def job(paths: list[Path], out: Path, cfg: PreprocessConfig = CFG) -> None:
    """The whole job, from the listing to the tables."""
    listing = out / "list.txt"
    listing.write_text("\n".join(map(str, paths)))
    preprocess(replace(cfg, source=str(listing)), str(out / "set"))


def frames_of_job(out: Path) -> dict[str, dict[int, np.ndarray]]:
    """Frames by stem and tick."""
    found: dict[str, dict[int, np.ndarray]] = {}
    rows = {row["clip_id"]: row for row in pq.read_table(out / "set/clips").to_pylist()}
    for path in (out / "set").glob("*-*.json"):
        entry = strict_json.read(ShardEntry, str(path))
        data = (out / "set" / entry.shard).read_bytes()
        for clip in entry.clips:
            row = rows[clip.clip_id]
            video = data[clip.video_offset : clip.video_offset + clip.video_bytes]
            ticks = found.setdefault(Path(row["video_uri"]).stem, {})
            ticks.update(enumerate(decode_clip(video), round(row["start_s"] * rivals.FPS)))
    return found


_WAITED_FOR = {"ffmpeg", "lafp.confined"}
"""Words in the commands of children that end, and are waited for, before CPU seconds are read."""


class Family:
    """CPU seconds of this process and all that descend from it, dead ones included."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def cpu_s(self) -> float:
        self._look()
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return sum(self._seen.values()) + own.ru_utime + own.ru_stime

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.2)

    def _look(self) -> None:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                if process.ppid() == me.pid and _WAITED_FOR & set(process.cmdline()):
                    continue  # among RUSAGE_CHILDREN
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress off the output."""
    error, sys.stderr = sys.stderr, io.StringIO()
    try:
        yield
    finally:
        sys.stderr = error


def check_pictures(name: str, out: Path, expected: dict[str, dict[int, np.ndarray]]) -> str:
    """A contender that makes other pictures has no speed to compare."""
    found = list(rivals.differences(expected, rivals.written_frames(out)))
    median, share = np.median(found), np.mean(np.array(found) <= MAX_DIFFERENCE)
    text = f"{median:.2f} of 255 in the median, {share:.1%} below {MAX_DIFFERENCE:g}"
    assert median <= MAX_MEDIAN_DIFFERENCE and share >= MIN_SHARE, f"{name} differs: {text}"
    return text


def main(folder: Path, num_runs: int, num_copies: int) -> None:
    num_cores = os.cpu_count() or 1
    pool = ProcessPoolExecutor(num_cores, multiprocessing.get_context("spawn"))
    contenders: dict[str, Callable[[list[Path], Path], None]] = {
        "job": job,
        "bare_pyav": partial(rivals.bare_pyav, pool=pool),
        "ffmpeg": partial(rivals.ffmpeg, num_cores=num_cores),
        "job_with_shots": partial(job, cfg=WITH_SHOTS),
        "job_on_ray": job,
        "ray_read_videos": rivals.ray_read_videos,
    }
    family = Family()
    cpu_s: dict[str, list[float]] = {name: [] for name in contenders}
    wall_s: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as scratch:
        sets = copies(folder, Path(scratch), num_copies)
        agree = warm_up(contenders, sets[0])
        paths = [path for each in sets for path in each]
        for run in range(num_runs):
            for name, contender in contenders.items():
                with tempfile.TemporaryDirectory() as out, ray_for(name), quiet():
                    cpu, wall = family.cpu_s(), time.monotonic()
                    contender(paths, Path(out))
                    cpu_s[name].append(family.cpu_s() - cpu)
                    wall_s[name].append(time.monotonic() - wall)
            print(f"run {run + 1} of {num_runs}", cpu_s, file=sys.stderr, flush=True)
        num_source_frames = sum(map(count_frames, paths))
    for name in contenders:
        print(json.dumps(line(name, num_source_frames, agree, cpu_s, wall_s)), flush=True)


@contextmanager
def ray_for(name: str) -> Iterator[None]:
    """A Ray with warm workers for a contender that needs one."""
    if "ray" not in name:
        yield
        return
    num_cpus = os.cpu_count() or 1
    ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.get([_warm.remote() for _ in range(num_cpus)])
    try:
        yield
    finally:
        ray.shutdown()


@ray.remote
def _warm() -> None:
    time.sleep(1.0)


def warm_up(
    contenders: dict[str, Callable[[list[Path], Path], None]], paths: list[Path]
) -> dict[str, str]:
    """Runs all once. Returns, in words, how far each one's pictures are from the job's."""
    agree: dict[str, str] = {}
    expected: dict[str, dict[int, np.ndarray]] = {}
    for name, contender in contenders.items():
        with tempfile.TemporaryDirectory() as folder, ray_for(name), quiet():
            contender(paths, Path(folder))
            if name == "job":
                expected = frames_of_job(Path(folder))
                num_ticks = sum(map(rivals.num_ticks, paths))
                assert sum(map(len, expected.values())) > 0.99 * num_ticks
            elif not name.startswith("job"):
                agree[name] = check_pictures(name, Path(folder), expected)
    return agree


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def line(
    name: str,
    num_frames: int,
    agree: dict[str, str],
    cpu_s: dict[str, list[float]],
    wall_s: dict[str, list[float]],
) -> dict[str, Any]:
    rates = sorted(round(num_frames / s) for s in cpu_s[name])
    # Each run beside the job's run next to it: a machine's load changes between runs.
    ratios = np.array(cpu_s[name]) / np.array(cpu_s["job"])
    walls = np.array(wall_s[name]) / np.array(wall_s["job"])
    return {
        "bench": "preprocess/job" if name == "job" else f"preprocess/vs_{name}",
        "ratio": round(float(np.median(ratios)), 3),
        "ratios": [round(float(ratio), 3) for ratio in (ratios.min(), ratios.max())],
        "wall_ratio": round(float(np.median(walls)), 3),
        "source_frames_per_cpu_s": {"min": rates[0], "max": rates[-1], "runs": len(rates)},
        "num_source_frames": num_frames,
        "pictures_differ_by": agree.get(name, ""),
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("../shared/data/videos"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--copies", type=int, default=6)
    args = parser.parse_args()
    main(args.folder, args.runs, args.copies)
