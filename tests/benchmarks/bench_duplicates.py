"""What is taken for a near-duplicate among clips of robots, and which share of copies is found.

python -m tests.benchmarks.bench_duplicates    # one JSON line

What the search costs is measured by ``bench_select``.
"""

import itertools
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.measure.signature import (
    GRID,
    MIN_COVERED,
    MIN_COVERED_IN_VIDEO,
    Signature,
    is_duplicate,
    signature,
)
from data_pipelines.preprocess.select.duplicates import keys_of
from lafp.video import EncodeConfig, decode_clip, encode_clip
from lafp.video.decoders.arrays import array_frames
from tests.shot_cases import VIDEOS, frames_of

NUM_FRAMES, FPS, COPY_EVERY = 100, 10.0, 50
_NUM_REMEMBERED = 1_000


def signatures(num_clips: int) -> Iterator[tuple[bytes, int | None]]:
    """Of clips of 10 s, and of which earlier clip each is a copy. Made on all cores."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        yield from pool.imap(_signature, _pictures(num_clips), chunksize=200)


def _pictures(num_clips: int) -> Iterator[tuple[int, int | None, np.ndarray]]:
    """Of each clip: its number, the clip that it copies, and its first and last picture."""
    rng = np.random.default_rng(0)
    earlier: list[tuple[int, np.ndarray]] = []
    for number in range(num_clips):
        original = None
        if number % COPY_EVERY == COPY_EVERY - 1:
            original, ends = earlier[rng.integers(len(earlier))]
        else:
            ends = rng.random((2, GRID, GRID, 1), np.float32)
            if len(earlier) < _NUM_REMEMBERED:
                earlier.append((number, ends))
        yield number, original, ends


def _signature(clip: tuple[int, int | None, np.ndarray]) -> tuple[bytes, int | None]:
    number, original, ends = clip
    share = np.linspace(0, 1, NUM_FRAMES, dtype=np.float32)[:, None, None, None]
    small = (1 - share) * ends[0] + share * ends[1]
    noise = np.random.default_rng([1, number]).normal(0, 0.003, small.shape)
    small = (small + noise.astype(np.float32)).clip(0, 1)
    return bytes.fromhex(signature(small, FPS).to_hex()), original


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


def keys_in(clip: Signature) -> set[int]:
    """The keys by which the search looks up a clip."""
    signed = pa.array([bytes.fromhex(clip.to_hex())], pa.large_binary())
    return set(keys_of(pa.table({"clip": [0], "signature": signed}))["key"].to_pylist())


def real_clips() -> dict[str, float]:
    """Pairs of clips that are none, and copies that are, if they share a key and are the same."""
    clips = robot_clips()
    signed = [signature(shrink(frames), FPS) for _, frames in clips]
    keys = [keys_in(clip) for clip in signed]

    def is_found(clip: Signature, number: int, min_covered: float) -> bool:
        shares_key = not keys_in(clip).isdisjoint(keys[number])
        return shares_key and is_duplicate(clip, signed[number], min_covered)

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


if __name__ == "__main__":
    print(json.dumps({"bench": "duplicates/real", **real_clips()}), flush=True)
