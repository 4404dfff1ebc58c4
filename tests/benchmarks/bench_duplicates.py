"""How long the driver searches for near-duplicates, and how much memory and disk that takes.

python -m tests.benchmarks.bench_duplicates [NUM_CLIPS ...]    # one JSON line per number of clips

Signatures are made up of random pictures that drift, one in fifty a noisy copy of an earlier one.
`ratio`: seconds per clip, against those of the smallest number of clips.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from data_pipelines.catalog import Catalog
from data_pipelines.duplicates import find_duplicates
from data_pipelines.stages.dedup import GRID, signature

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
        catalog.db.execute("BEGIN")
        for number, (data, is_copy) in enumerate(signatures(num_clips)):
            num_copies += is_copy
            catalog.db.execute(
                "INSERT INTO signatures VALUES (?, ?, ?)", (number, number // 5, data)
            )
            catalog.db.execute(
                "INSERT INTO clips VALUES (?, ?, '', '', 0, 10, 10, 100, NULL, NULL, '')",
                (number, number // 5),
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


def main(sizes: list[int]) -> None:
    smallest_ms = 0.0
    for size in sizes:
        found = search(size)
        smallest_ms = smallest_ms or found["ms_per_clip"]
        ratio = round(found["ms_per_clip"] / smallest_ms, 3)
        print(json.dumps({"bench": f"duplicates/{size}", "ratio": ratio, **found}), flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or list(SIZES))
