"""What is taken for a near-duplicate, how long the driver searches, and what memory that takes.

python -m tests.benchmarks.bench_duplicates [NUM_CLIPS ...]    # one JSON line per number of clips
python -m tests.benchmarks.bench_duplicates real    # clips of robots that are taken for copies,
                                                    # and the share of true copies that are found

Signatures are made up of random pictures that drift, one in fifty a noisy copy of an earlier one.
`ratio`: seconds per clip, against those of the smallest number of clips.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

from data_pipelines.preprocess.clip.measure.motion import shrink
from data_pipelines.preprocess.clip.measure.signature import (
    GRID,
    MIN_COVERED,
    MIN_COVERED_IN_VIDEO,
    Signature,
    is_duplicate,
    signature,
)
from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.select.duplicates import find_duplicates
from lafp.video import EncodeConfig, decode_clip, encode_clip
from lafp.video.decoders.arrays import array_frames
from tests.benchmarks import bench_shots

SIZES = (10_000, 100_000)
NUM_FRAMES, FPS, COPY_EVERY = 100, 10.0, 50
_NUM_REMEMBERED = 1_000


def signatures(num_clips: int) -> Iterator[tuple[bytes, bool]]:
    """Of clips of 10 s, and whether each is a copy."""
    rng = np.random.default_rng(0)
    earlier: list[np.ndarray] = []
    share = np.linspace(0, 1, NUM_FRAMES, dtype=np.float32)[:, None, None, None]
    for number in range(num_clips):
        is_copy = number % COPY_EVERY == COPY_EVERY - 1
        if is_copy:
            ends = earlier[rng.integers(len(earlier))]
        else:
            ends = rng.random((2, GRID, GRID, 1), np.float32)
            (earlier.append if len(earlier) < _NUM_REMEMBERED else lambda _: None)(ends)
        small = (1 - share) * ends[0] + share * ends[1]
        small = small + rng.normal(0, 0.003, small.shape).astype(np.float32)
        yield bytes.fromhex(signature(small.clip(0, 1), FPS).to_hex()), is_copy


def search(num_clips: int) -> dict[str, float]:
    """Fills a catalog and searches it."""
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(Path(folder))
        num_copies = 0
        columns = [name for _, name, *_ in catalog.db.execute("PRAGMA table_info(clips)")]
        known = {"clip": ":clip", "video": ":video", "original": "NULL"}
        values = ", ".join(known.get(name, "''") for name in columns)
        clip_row = f"INSERT INTO clips VALUES ({values})"
        catalog.db.execute("BEGIN")
        for number, (data, is_copy) in enumerate(signatures(num_clips)):
            num_copies += is_copy
            catalog.db.execute(
                "INSERT INTO signatures VALUES (?, ?, ?)", (number, number // 5, data)
            )
            catalog.db.execute(
                clip_row,
                {"clip": number, "video": number // 5},
            )
        catalog.db.execute("COMMIT")
        before_s = time.process_time()
        for _ in find_duplicates(catalog):
            pass
        cpu_s = time.process_time() - before_s
        num_found = catalog.value("SELECT count(*) FROM clips WHERE original IS NOT NULL")
        num_bytes = (Path(folder) / "catalog.sqlite").stat().st_size
        catalog.close()
    return {
        "ms_per_clip": round(1000 * cpu_s / num_clips, 3),
        "cpu_s": round(cpu_s, 1),
        "share_found": round(num_found / num_copies, 3),
        "disk_bytes_per_clip": round(num_bytes / num_clips),
        "rss_mib": round(psutil.Process().memory_info().rss / 2**20),
    }


def robot_clips() -> list[tuple[str, np.ndarray]]:
    """Disjoint clips of 10 s at most, uint8 [T, 64, 64, 3], of robots, and their paths."""
    clips = []
    for kind in ("robot", "labeled"):
        for path in sorted((bench_shots.VIDEOS / kind).glob("**/*.mp4")):
            frames = np.stack(bench_shots.frames_of(path))
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
