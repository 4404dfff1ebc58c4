"""How long a training takes to open a set of a million shards, with a made-up manifest.

python -m tests.benchmarks.bench_manifest [100000 1000000]

Prints a JSON line per number of shards: seconds until the order of clips is known, until its first
clip, and until a clip in the middle of the second epoch, where a run may resume; and the memory
that this process needed more than before.
"""

import hashlib
import json
import pickle
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lafp.data.order.clips import ClipOrder
from lafp.data.randomness import keyed_permutation
from tests.synthetic_shards import write_shard_set

CLIPS_PER_SHARD = 4


def write_set(folder: Path, num_shards: int) -> None:
    """Writes a set whose shards are copies of one, but only their rows and the entry of one."""
    write_shard_set(folder, num_clips=CLIPS_PER_SHARD, clips_per_shard=CLIPS_PER_SHARD)
    manifest = folder / "manifest.parquet"
    row = pq.read_table(manifest).to_pylist()[0]
    columns = {name: [value] * num_shards for name, value in row.items()}
    columns["shard"] = [f"train-{number:07d}.tar" for number in range(num_shards)]
    columns["sha256"] = [
        hashlib.sha256(number.to_bytes(8)).hexdigest() for number in range(num_shards)
    ]
    pq.write_table(pa.table(columns, schema=pq.read_schema(manifest)), manifest)


def link_entries(folder: Path, order: ClipOrder, num_shards: int) -> None:
    """Gives the shards of the two pools that are visited an entry: a link to that of the first."""
    target = folder / "train-000000.json"
    middle = num_shards // 2 // order.pool_shards * order.pool_shards
    for epoch, first in ((0, 0), (1, middle)):
        pool = keyed_permutation(num_shards, order.seed, epoch)[first : first + order.pool_shards]
        for number in pool.tolist():
            entry = folder / f"train-{number:07d}.json"
            if not entry.exists():
                entry.symlink_to(target)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(num_shards: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), num_shards)
        num_bytes, before_mib = (Path(folder) / "manifest.parquet").stat().st_size, peak_mib()
        start_s = time.perf_counter()
        order = ClipOrder(shard_set=folder, split="train", seed=0)
        known_s = time.perf_counter()
        link_entries(Path(folder), order, num_shards)
        linked_s = time.perf_counter()
        next(order.visits())
        first_s = time.perf_counter()
        middle = num_shards // 2 // order.pool_shards * order.pool_shards
        next(order.visits(order.num_clips + middle * CLIPS_PER_SHARD))
        end_s = time.perf_counter()
        return {
            "shards": num_shards,
            "manifest_mb": round(num_bytes / 1e6, 1),
            "order_s": round(known_s - start_s, 2),
            "first_clip_s": round(first_s - linked_s, 2),
            "resumed_clip_s": round(end_s - first_s, 2),
            "more_memory_mib": round(peak_mib() - before_mib),
            "sent_to_each_worker_mb": round(len(pickle.dumps(order)) / 1e6, 1),
        }


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ("100000", "1000000")):
        print(json.dumps(measure(number)), flush=True)
