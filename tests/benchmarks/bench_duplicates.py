"""What is taken for a near-duplicate, how long the search takes, and what memory and disk it needs.

python -m tests.benchmarks.bench_duplicates [NUM_CLIPS ...]    # one JSON line per number of clips
python -m tests.benchmarks.bench_duplicates real    # clips of robots that are taken for copies,
                                                    # and the share of true copies that are found

Signatures are made up of random pictures that drift, one in fifty a noisy copy of an earlier one.
The search runs on a local Ray of as many CPUs as the machine has. CPU seconds are those of all its
processes, Ray's own too. `ratio`: CPU seconds per clip, against those of the smallest number.
"""

import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import ray

from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.measure.signature import (
    GRID,
    MIN_COVERED,
    MIN_COVERED_IN_VIDEO,
    Signature,
    is_duplicate,
    signature,
)
from data_pipelines.preprocess.search import find_duplicates
from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.select.signatures import write_signatures
from lafp.video import EncodeConfig, decode_clip, encode_clip
from lafp.video.decoders.arrays import array_frames
from tests.shot_cases import VIDEOS, frames_of

SIZES = (10_000, 100_000)
NUM_FRAMES, FPS, COPY_EVERY = 100, 10.0, 50
CLIPS_PER_PART = 250
_NUM_REMEMBERED = 1_000


def signatures(num_clips: int) -> Iterator[tuple[bytes, int | None]]:
    """Of clips of 10 s, and of which earlier clip each is a copy."""
    rng = np.random.default_rng(0)
    earlier: list[tuple[int, np.ndarray]] = []
    share = np.linspace(0, 1, NUM_FRAMES, dtype=np.float32)[:, None, None, None]
    for number in range(num_clips):
        original = None
        if number % COPY_EVERY == COPY_EVERY - 1:
            original, ends = earlier[rng.integers(len(earlier))]
        else:
            ends = rng.random((2, GRID, GRID, 1), np.float32)
            if len(earlier) < _NUM_REMEMBERED:
                earlier.append((number, ends))
        small = (1 - share) * ends[0] + share * ends[1]
        small = small + rng.normal(0, 0.003, small.shape).astype(np.float32)
        yield bytes.fromhex(signature(small.clip(0, 1), FPS).to_hex()), original


def fill(num_clips: int, work: Path) -> tuple[Catalog, dict[int, int]]:
    """Makes a catalog, the signatures of its parts, and which clips are copies of which."""
    catalog, copies = Catalog(work), {}
    columns = [name for _, name, *_ in catalog.db.execute("PRAGMA table_info(clips)")]
    known = {name: f":{name}" for name in ("clip", "video", "part", "video_offset")}
    values = ", ".join(known.get(name, "NULL" if name == "original" else "''") for name in columns)
    made, number = signatures(num_clips), -1
    catalog.db.execute("BEGIN")
    while of_part := list(itertools.islice(made, CLIPS_PER_PART)):
        number += 1
        part, first = f"{number // 1000:06d}/part-{number:06d}.tar", number * CLIPS_PER_PART
        write_signatures(str(work), part, {i: data for i, (data, _) in enumerate(of_part)})
        for i, (_, original) in enumerate(of_part):
            row = {"clip": first + i, "video": (first + i) // 5, "part": part, "video_offset": i}
            catalog.db.execute(f"INSERT INTO clips VALUES ({values})", row)
            if original is not None:
                copies[first + i] = original
    catalog.db.execute("COMMIT")
    catalog.num_clips = num_clips
    return catalog, copies


def search(num_clips: int) -> dict[str, float]:
    """Makes up clips and searches them, on a Ray of its own."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, copies = fill(num_clips, Path(folder))
        before_bytes = num_bytes(Path(folder))
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        with Watch() as watch:
            found = find_duplicates(catalog, folder)
            originals = {
                row["clip"]: row["original"]
                for batch in found.originals
                for row in batch.to_pylist()
            }
        ray.shutdown()
        catalog.close()
        num_right = sum(copies.get(clip) == original for clip, original in originals.items())
        return {
            "ms_per_clip": round(1000 * watch.cpu_s / num_clips, 3),
            "cpu_s": round(watch.cpu_s, 1),
            "wall_s": round(watch.wall_s, 1),
            "recall": round(num_right / len(copies), 4),
            "precision": round(num_right / max(1, len(originals)), 4),
            "disk_bytes_per_clip": round((num_bytes(Path(folder)) - before_bytes) / num_clips),
            "driver_peak_mib": watch.driver_mib,
            "worker_peak_mib": watch.worker_mib,
        }


class Watch:
    """Measures this process and all below it, within a block."""

    def __enter__(self) -> "Watch":
        self._cpu_s: dict[psutil.Process, float] = {}
        self.driver_mib = self.worker_mib = 0
        self._done, self._thread = threading.Event(), threading.Thread(target=self._watch)
        self._before_s, self._started_at = self._look(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.cpu_s, self.wall_s = self._look() - self._before_s, time.monotonic() - self._started_at

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self._look()

    def _look(self) -> float:
        """Takes a look at all processes. Returns their CPU seconds, ended ones included."""
        driver = psutil.Process()
        for process in (driver, *driver.children(recursive=True)):
            try:
                times, info = process.cpu_times(), process.memory_info()
            except psutil.NoSuchProcess:
                continue
            self._cpu_s[process] = times.user + times.system
            private_mib = (info.rss - info.shared) // 2**20  # without the object store
            if process == driver:
                self.driver_mib = max(self.driver_mib, private_mib)
            else:
                self.worker_mib = max(self.worker_mib, private_mib)
        return sum(self._cpu_s.values())


def num_bytes(folder: Path) -> int:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def robot_clips() -> list[tuple[str, np.ndarray]]:
    """Disjoint clips of 10 s at most, uint8 [T, 64, 64, 3], of robots, and their paths."""
    clips = []
    for kind in ("robot", "labeled"):
        for path in sorted((VIDEOS / kind).glob("**/*.mp4")):
            frames = np.stack(frames_of(path))
            for part in np.array_split(frames, -(-len(frames) // NUM_FRAMES)):
                if len(part) >= 16:
                    clips.append((str(path), part))
    return clips


def scaled(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Other sizes of all frames."""
    return np.stack([frame.pixels() for frame in array_frames(frames, FPS, width, height)])


def barred(frames: np.ndarray) -> np.ndarray:
    """The same between black bars above and below."""
    out = np.zeros_like(frames)
    out[:, 8:56] = scaled(frames, 48, 64)
    return out


def encoded(frames: np.ndarray) -> np.ndarray:
    """Worse than shards are."""
    return decode_clip(encode_clip(frames, FPS, EncodeConfig(crf=28)))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "encoded": encoded,
    "scaled": lambda frames: encoded(scaled(scaled(frames, 40, 40), 64, 64)),
    "trimmed": lambda frames: encoded(frames[min(7, len(frames) // 4) :]),
    "darker": lambda frames: encoded((0.8 * frames).astype(np.uint8)),
    "brighter": lambda frames: encoded((1.08 * frames + 4).clip(0, 255).astype(np.uint8)),
    "bars": lambda frames: encoded(barred(frames)),
}


def real_clips() -> dict[str, float]:
    """Pairs of clips that are none, and copies that are, if they share a key and are the same."""
    clips = robot_clips()
    signed = [signature(shrink(frames), FPS) for _, frames in clips]

    def is_found(clip: Signature, number: int, min_covered: float) -> bool:
        other = signed[number]
        shares_key = bool(np.any(clip.keys == other.keys))
        return shares_key and is_duplicate(clip, other, min_covered)

    pairs = list(itertools.permutations(range(len(clips)), 2))
    wrong = 0
    for i, j in pairs:
        is_one_video = clips[i][0] == clips[j][0]
        wrong += is_found(signed[i], j, MIN_COVERED_IN_VIDEO if is_one_video else MIN_COVERED)
    result: dict[str, float] = {"clips": len(clips), "pairs": len(pairs), "wrong": wrong}
    for kind, copy in COPIES.items():
        copies = [signature(shrink(copy(frames)), FPS) for _, frames in clips]
        found = [is_found(made, i, MIN_COVERED) for i, made in enumerate(copies)]
        result[f"recall_{kind}"] = round(float(np.mean(found)), 3)
    return result


def main(sizes: list[int]) -> None:
    smallest_ms = 0.0
    for size in sizes:
        found = search(size)
        smallest_ms = smallest_ms or found["ms_per_clip"]
        ratio = round(found["ms_per_clip"] / smallest_ms, 3)
        print(json.dumps({"bench": f"duplicates/{size}", "ratio": ratio, **found}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["real"]:
        print(json.dumps({"bench": "duplicates/real", **real_clips()}), flush=True)
    else:
        main([int(text) for text in sys.argv[1:]] or list(SIZES))
