"""How long a training takes to start on a set of a million shards, with a made-up manifest.

python -m tests.benchmarks.bench_manifest [100000 1000000]

Prints a JSON line per number of shards. ``train_lam_*``: wall and CPU seconds of a whole training
of one step, from the command to its end. The rest is of one process: CPU seconds until the order of
clips is known, until its first clip, and until a clip in the middle of the second epoch, where a
run may resume; the memory that it needed more than before, and what Ray sends to each reader.
"""

import hashlib
import json
import pickle
import re
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lafp.data.order.clips import ClipOrder
from lafp.data.randomness import keyed_permutation
from tests.benchmarks.bench_start import measured
from tests.benchmarks.own_process import in_own_process
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


def link_shards(folder: Path, order: ClipOrder, num_shards: int) -> None:
    """Gives the shards of the pools that are visited a tar and an entry: links to the first."""
    middle = num_shards // 2 // order.pool_shards * order.pool_shards
    for epoch, first in ((0, 0), (1, middle)):
        pool = keyed_permutation(num_shards, order.seed, epoch)[first : first + order.pool_shards]
        for number in pool.tolist():
            for suffix in ("json", "tar"):
                path = folder / f"train-{number:07d}.{suffix}"
                if not path.exists():
                    path.symlink_to(folder / f"train-000000.{suffix}")


def start(shards: str, storage: str) -> tuple[float, float]:
    """Trains a LAM for a step. Returns wall and CPU seconds of the whole command."""
    settings = {
        "shards": shards,
        "train.num_steps": 1,
        "train.seed": 0,
        "train.optim.warmup_steps": 0,
        "train.global_batch_size": 8,
        "train.ingest.mode": "direct",
    }
    overrides = [f"{name}={value}" for name, value in settings.items()]
    command = ["train_lam", "configs/train_lam/lapo_debug.yaml", *overrides]
    return measured("start", command, storage)


def peak_mib() -> float:
    # Not `ru_maxrss`, in which a new process begins with the peak of its parent.
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def read(shards: str, num_shards: int) -> dict[str, float]:
    """Reads the manifest and two clips' places, in a process of its own."""
    before_mib, begin_s = peak_mib(), time.process_time()
    order = ClipOrder(shard_set=shards, split="train", seed=0)
    known_s = time.process_time()
    link_shards(Path(shards), order, num_shards)
    linked_s = time.process_time()
    next(order.visits())
    first_s = time.process_time()
    middle = num_shards // 2 // order.pool_shards * order.pool_shards
    next(order.visits(order.num_clips + middle * CLIPS_PER_SHARD))
    end_s = time.process_time()
    return {
        "order_cpu_s": round(known_s - begin_s, 2),
        "first_clip_cpu_s": round(first_s - linked_s, 2),
        "resumed_clip_cpu_s": round(end_s - first_s, 2),
        "more_memory_mib": round(peak_mib() - before_mib),
        "sent_to_each_reader_mb": round(len(pickle.dumps(order)) / 1e6, 1),
    }


def measure(num_shards: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        write_set(shards, num_shards)
        found = in_own_process(read, str(shards), num_shards)
        wall_s, cpu_s = start(str(shards), str(Path(folder) / "runs"))
        return {
            "shards": num_shards,
            "manifest_mb": round((shards / "manifest.parquet").stat().st_size / 1e6, 1),
            **found,
            "train_lam_wall_s": round(wall_s, 1),
            "train_lam_cpu_s": round(cpu_s, 1),
        }


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ("100000", "1000000")):
        print(json.dumps(measure(number)), flush=True)
