"""Measures how fast `lafp view` opens and answers on a table of made-up clips, and its memory.

python -m tests.benchmarks.bench_view [--clips 100000] [--rounds 9]

Prints one JSON line. ``start_s``: from the start of the process to the first page of rows.
``import_s``: that of an interpreter that imports what the command imports, and opens no table.
``ms``: medians of whole requests, by what is asked: ``page`` the first rows as stored, ``filter``,
``words`` and ``sort`` over all rows (asked for once, other values each round), ``next`` the page
after such a search, ``clip`` a clip's page by its id. ``rss_mib`` of the server, first and last;
``table_mib`` of the table of clips on disk.
"""

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import psutil
import pyarrow.parquet as pq

from lafp.data.shards.format import ClipRecord
from lafp.storage.tables import open_table
from tests.synthetic_shards import write_shard_set

PAIRS = 60


def write_set(folder: Path, num_clips: int) -> float:
    """Writes a set with one real shard and many rows. Returns the size of its table in MiB."""
    write_shard_set(folder, num_clips=4, clips_per_shard=4)
    real = pq.read_table(folder / "clips").to_pylist()
    rng = np.random.default_rng(0)
    path = folder / "clips/part-00000.parquet"
    with open_table(str(path), ClipRecord, {"shard": str}) as table:
        for number in range(num_clips):
            clip_id = hashlib.sha256(str(number).encode()).hexdigest()[:32]
            video = number // 5
            start_s = 10.0 * (number % 5)
            row = real[number % 4] | {
                "clip_id": real[number]["clip_id"] if number < 4 else clip_id,
                "video_id": hashlib.sha256(f"video {video}".encode()).hexdigest()[:32],
                "video_uri": f"s3://bucket/corpus/part-{video % 97:03d}/kitchen_{video:07d}.mp4",
                "start_s": start_s,
                "end_s": start_s + float(rng.uniform(2, 10)),
                "motion": float(rng.exponential(0.02)),
                "pair_motion": rng.integers(0, 900, PAIRS, np.uint16).tolist(),
            }
            table.add(row)
    return path.stat().st_size / 2**20


def ms(ask: Callable[[int], object], rounds: int) -> float:
    """Median time of a request, in milliseconds."""
    times = []
    for number in range(rounds):
        start = time.perf_counter()
        ask(number)
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 1)


def import_s() -> float:
    """Seconds of an interpreter that imports what the command needs."""
    code = "import ray_jobs.view, lafp.view.server, lafp.view.viewed_sets, pyarrow.parquet"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def measure(folder: Path, num_clips: int, rounds: int) -> dict[str, object]:
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.view", str(folder), "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        process.stdout.readline()
        url = re.search(r"http\S+", process.stdout.readline())[0]

        def ask(path: str = "clips", **parameters) -> dict:
            with urlopen(f"{url}api/0/{path}?{urlencode(parameters)}") as answer:
                return json.load(answer)

        first = ask()
        start_s = time.perf_counter() - start
        server = psutil.Process(process.pid)
        before = server.memory_info().rss
        asked = {
            "page": lambda n: ask(),
            "facets_first": lambda n: ask("facets"),
            "filter": lambda n: ask(min_motion=0.01 + 0.001 * n, split="train"),
            "words": lambda n: ask(search=f"kitchen_00{n + 1}"),
            "sort": lambda n: ask(sort="motion", min_length=2 + 0.01 * n),
            "next": lambda n: ask(sort="motion", offset=48 * (n + 1)),
            "clip": lambda n: ask(f"clip/{first['rows'][n % 4]['clip_id']}"),
        }
        times = {name: ms(each, 1 if "first" in name else rounds) for name, each in asked.items()}
        return {
            "clips": num_clips,
            "start_s": round(start_s, 2),
            "import_s": round(import_s(), 2),
            "ms": times,
            "rss_mib": [round(each / 2**20) for each in (before, server.memory_info().rss)],
        }
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lafp-") as folder:
        table_mib = write_set(Path(folder), args.clips)
        found = measure(Path(folder), args.clips, args.rounds)
    print(json.dumps({"bench": "view", **found, "table_mib": round(table_mib, 1)}), flush=True)


if __name__ == "__main__":
    main()
