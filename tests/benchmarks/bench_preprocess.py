"""Source frames per CPU second of `preprocess`, against doing the same by other means.

python -m tests.benchmarks.bench_preprocess [FOLDER] [NUM_RUNS]    # one JSON line per rival

Every contender turns the same real videos into 64 x 64 clips of 10 frames/s with the same encoder
settings. CPU seconds of all of its processes are counted, Ray's own included, so that a busy
machine does not decide; wall-clock ratios stand beside. `ratio` above 1: `preprocess` is faster.
"""

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import ray
from av.video.reformatter import VideoReformatter

from data_pipelines.config import PreprocessConfig, TasksConfig
from data_pipelines.pipeline import preprocess
from data_pipelines.stages.motion import FiltersConfig
from data_pipelines.stages.resize import crop_or_pad, scaled_size
from lafp.data.shard_format import ShardSet
from lafp.video import EncodeConfig, encode_clip
from lafp.video.convert import SCALING
from lafp.video.pyav_decoder import PyAVConfig, PyAVDecoder

FPS = 10.0
ENCODE = EncodeConfig()
CFG = PreprocessConfig(
    filters=FiltersConfig(min_motion=0.0003, min_brightness=0.03, drop_duplicates=True),
    max_reject_fraction=1.0,
    tasks=TasksConfig(videos_per_task=4),
)
# Sound, upright, square pixels, constant rate, and readable by decord: what every rival can do.
FILES = (
    "internet/Ask-Anything__example_yoga.mp4",
    "internet/Video-LLaVA__sample_demo_22.mp4",
    "internet/interactive-examples__cc0-videos_friday.mp4",
    "internet/sample-videos__bottle-detection.mp4",
    "internet/torchcodec__nasa_13013.mp4",
    "internet/sam2__gallery_04_coffee.mp4",
    "robot/dexmimicgen__dp_can.mp4",
    "robot/gated-memory-policy__loc_3_ours.mp4",
)


def bare_pyav(paths: list[Path], out: Path) -> int:
    """Decode, scale what is shown at each tenth of a second, encode clips of 100 frames."""
    num_frames = 0
    for path in paths:
        info = PyAVDecoder(PyAVConfig()).probe(str(path), 2**24, time.monotonic() + 60)
        size, to_rgb, clip = scaled_size(info, CFG.resize), VideoReformatter(), []
        next_s = number = 0.0
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if frame.time - info.first_pts_s >= next_s - 0.25 / info.fps:
                    rgb = to_rgb.reformat(frame, *size, "rgb24", interpolation=SCALING, threads=1)
                    clip.append(crop_or_pad(rgb.to_ndarray(), CFG.resize))
                    number += 1
                    next_s = number / FPS
                if len(clip) == 100:
                    num_frames += len(clip)
                    write(out, path, num_frames, clip)
                    clip = []
        if clip:
            num_frames += len(clip)
            write(out, path, num_frames, clip)
    return num_frames


def write(out: Path, path: Path, number: int, clip: list[np.ndarray]) -> None:
    (out / f"{path.stem}-{number}.mp4").write_bytes(encode_clip(np.stack(clip), FPS, ENCODE))


def ffmpeg(paths: list[Path], out: Path) -> int:
    """One command per file."""
    num_frames = 0
    for path in paths:
        to = out / f"{path.stem}.mp4"
        scale = "scale=64:64:force_original_aspect_ratio=increase:flags=area,crop=64:64"
        command = ["ffmpeg", "-v", "error", "-y", "-threads", "1", "-i", str(path), "-an"]
        command += ["-vf", f"fps={FPS:g},{scale}", "-c:v", "libx264", "-threads", "1"]
        command += ["-crf", str(ENCODE.crf), "-preset", ENCODE.preset, "-g", str(ENCODE.gop_frames)]
        subprocess.run([*command, "-bf", "0", "-pix_fmt", "yuv420p", str(to)], check=True)
        num_frames += count_frames(to)
    return num_frames


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def read_videos(paths: list[Path], out: Path) -> int:
    """``ray.data.read_videos``, then the same frames, scaling and encoder."""
    rates = {
        str(p): PyAVDecoder(PyAVConfig()).probe(str(p), 2**24, time.monotonic() + 60).fps
        for p in paths
    }

    def shrink_and_encode(batch: dict[str, Any]) -> dict[str, Any]:
        to_rgb, clip = VideoReformatter(), []
        for pixels, index, path in zip(
            batch["frame"], batch["frame_index"], batch["path"], strict=True
        ):
            step = rates[path] / FPS
            if int(index / step) == int((index - 1) / step) and index:
                continue
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            scale = 64 / min(pixels.shape[:2])
            size = [max(64, round(side * scale)) for side in (frame.width, frame.height)]
            small = to_rgb.reformat(frame, *size, "rgb24", interpolation=SCALING, threads=1)
            clip.append(crop_or_pad(small.to_ndarray(), CFG.resize))
        if clip:
            write(out, Path(batch["path"][0]), int(batch["frame_index"][0]), clip)
        return {"num_frames": np.array([len(clip)])}

    frames = ray.data.read_videos([str(path) for path in paths], include_paths=True)
    made = frames.map_batches(shrink_and_encode, batch_size=None)
    return int(sum(row["num_frames"] for row in made.iter_rows()))


def job(paths: list[Path], out: Path) -> int:
    """The whole job, from the listing to the tables."""
    listing = out / "list.txt"
    listing.write_text("\n".join(map(str, paths)))
    summary = preprocess(replace(CFG, source=str(listing)), str(out / "set"))
    ShardSet.from_json((out / "set/shard_set.json").read_text())
    return int(summary["num_frames"]) + sum(
        round(reject["seconds"] * FPS) for reject in summary["funnel"]["rejects"].values()
    )


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
                if process.name() == "ffmpeg":  # waited for: among RUSAGE_CHILDREN
                    continue
                times = process.cpu_times()
                self._seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Ray Data's progress off the output."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    error, sys.stderr = sys.stderr, io.StringIO()
    try:
        yield
    finally:
        sys.stderr = error


def main(folder: Path, num_runs: int) -> None:
    paths = [folder.absolute() / name for name in FILES]
    num_source_frames = sum(count_frames(path) for path in paths)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    contenders: dict[str, Callable[[list[Path], Path], int]] = {
        "job": job, "bare_pyav": bare_pyav, "ray_read_videos": read_videos, "ffmpeg": ffmpeg,
    }  # fmt: skip
    family = Family()
    cpu_s: dict[str, list[float]] = {name: [] for name in contenders}
    wall_s: dict[str, list[float]] = {name: [] for name in contenders}
    num_frames = {}
    for run in range(num_runs + 1):  # the first one warms up
        for name, contender in contenders.items():
            with tempfile.TemporaryDirectory() as out, quiet():
                cpu, wall = family.cpu_s(), time.monotonic()
                num_frames[name] = contender(paths, Path(out))
                if run:
                    cpu_s[name].append(family.cpu_s() - cpu)
                    wall_s[name].append(time.monotonic() - wall)
    for name in contenders:  # a contender that does less has no speed to compare
        assert abs(num_frames[name] / num_frames["job"] - 1) < 0.02, num_frames
    for name in contenders:
        print(json.dumps(line(name, num_source_frames, cpu_s, wall_s)), flush=True)


def line(
    name: str, num_frames: int, cpu_s: dict[str, list[float]], wall_s: dict[str, list[float]]
) -> dict[str, Any]:
    rates = sorted(round(num_frames / s) for s in cpu_s[name])
    median = {key: float(np.median(values)) for key, values in cpu_s.items()}
    walls = {key: float(np.median(values)) for key, values in wall_s.items()}
    return {
        "bench": f"preprocess/vs_{name}" if name != "job" else "preprocess/job",
        "ratio": round(median[name] / median["job"], 3),
        "wall_ratio": round(walls[name] / walls["job"], 3),
        "source_frames_per_cpu_s": {"min": rates[0], "max": rates[-1], "runs": len(rates)},
        "num_source_frames": num_frames,
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if sys.argv[1:] else "../shared/data/videos"),
        int(sys.argv[2]) if sys.argv[2:] else 5,
    )
