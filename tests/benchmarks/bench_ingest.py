"""Windows per CPU second from shards into a trainer that does nothing, ours and by other means.

python -m tests.benchmarks.bench_ingest [--shards FOLDER] [--windows-per-clip 4 16] [--rounds 3]
python -m tests.benchmarks.bench_ingest --size-px 224 --windows-per-clip 4

Every contender goes through the same shards and gives batches of frame pairs as floats, at random
places, ``windows_per_clip`` per clip and epoch; nobody keeps decoded frames. Counted are the CPU
seconds of all of its processes, Ray's own included, from when batches flow until enough have come;
so starting costs nobody anything. Contenders take turns, each turn in a process of its own.

- ``direct``, ``ray``: the two modes of our ingest.
- ``webdataset_decord``: webdataset and decord in a worker of a torch DataLoader, one pair per visit
  to a clip. ``ray_read_webdataset``: the same of ``ray.data.read_webdataset``.
- ``webdataset_decord_once``: all windows of a clip in one visit and one ``get_batch``, as ours do.
- ``limit``: the tars read in order, all frames decoded and converted to RGB; no order, no batches.

One JSON line per rival: ``ratio`` is the windows per CPU second of our better mode over its, the
median over rounds; one that compares our modes; and for each mode one with a device step that
takes what the GPU would: ``data_wait_share`` while decoding needs ``BUSY_CORES`` of each reader,
``ratio`` the share of time that is no waiting.
"""

import argparse
import json
import os
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lafp.data.order.micro_batches import MicroBatch
from lafp.train.metrics.feeding import Feeding
from tests.benchmarks.bench_preprocess import Family
from tests.benchmarks.ingest_contenders import (
    CLIPS_PER_BATCH,
    CONTENDERS,
    OURS,
    Batches,
    Setting,
    start_ray,
    windows_of,
)
from tests.benchmarks.own_process import in_own_process
from tests.synthetic_shards import write_shard_set

NUM_WARMUP_BATCHES = 8
BUSY_CORES, NUM_DEVICE_STEPS = 0.9, 300
VIDEOS = Path("../shared/data/videos/robot")


def windows_per_cpu_s(name: str, setting: Setting, num_clips: int) -> float:
    """Runs in a process of its own."""
    torch.set_num_threads(1)
    family = Family()
    batches = CONTENDERS[name](setting)
    take(batches, NUM_WARMUP_BATCHES)
    before = family.cpu_s()
    num_windows = take(batches, num_clips // CLIPS_PER_BATCH)
    return num_windows / (family.cpu_s() - before)


def take(batches: Batches, num_batches: int) -> int:
    """The trainer that does nothing. Returns the number of windows."""
    return sum(len(obs) for obs, _ in islice(batches, num_batches))


def waiting_share(name: str, setting: Setting) -> tuple[float, float]:
    """Share of the time that a device waits for data, and the seconds of its steps.

    Runs in a process of its own.
    """
    torch.set_num_threads(1)
    decode_s = Feeding(setting.demands, cache_bytes=0).decode_s_per_step
    step_s = decode_s / (BUSY_CORES * setting.num_readers)
    clips = OURS[name](setting)
    for _ in range(NUM_DEVICE_STEPS // 3):  # until readers are ahead, if they can be
        _device_step(next(clips), setting, step_s)
    start, waited_s = time.perf_counter(), 0.0
    for _ in range(NUM_DEVICE_STEPS):
        asked = time.perf_counter()
        batch = next(clips)
        waited_s += time.perf_counter() - asked
        _device_step(batch, setting, step_s)
    return waited_s / (time.perf_counter() - start), step_s


def _device_step(batch: MicroBatch, setting: Setting, step_s: float) -> None:
    """Cuts windows, as a GPU would, and is busy for the rest of the step."""
    until = time.perf_counter() + step_s
    windows_of(batch, setting)
    time.sleep(max(0.0, until - time.perf_counter()))


def measure(setting: Setting, num_clips: int, num_rounds: int) -> dict[str, list[float]]:
    """Windows per CPU second of each contender, one per round."""
    rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(num_rounds):
        for name, of_name in rates.items():
            of_name.append(in_own_process(windows_per_cpu_s, name, setting, num_clips))
    return rates


def report(setting: Setting, rates: dict[str, list[float]]) -> None:
    facts = facts_of(setting) | {"rounds": len(rates["limit"])}
    best = max(OURS, key=lambda name: median(rates[name]))
    for name in CONTENDERS:
        if name not in OURS:
            show(f"ingest/vs_{name}", rates, best, name, facts)
    show("ingest/direct_vs_ray", rates, "direct", "ray", facts)


def show(bench: str, rates: dict[str, list[float]], ours: str, theirs: str, facts: Any) -> None:
    ratios = [a / b for a, b in zip(rates[ours], rates[theirs], strict=True)]
    line = {
        "bench": bench,
        "ours": ours,
        "windows_per_cpu_s": round(median(rates[ours]), 1),
        "their_windows_per_cpu_s": round(median(rates[theirs]), 1),
        "ratio": round(median(ratios), 3),
    }
    print(json.dumps(line | facts), flush=True)


def report_waiting(setting: Setting, num_rounds: int) -> None:
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in OURS}
    for _ in range(num_rounds):
        for name in OURS:
            shares[name].append(in_own_process(waiting_share, name, setting))
    for name in OURS:
        share, step_s = np.median(shares[name], axis=0).tolist()
        line = {
            "bench": f"ingest/device_step_{name}",
            "step_ms": round(1000 * step_s, 1),
            "windows_per_s": round(setting.windows_per_batch / step_s),
            "decode_cores_needed": BUSY_CORES * setting.num_readers,
            "data_wait_share": round(share, 3),
            "ratio": round(1 - share, 3),
        }
        print(json.dumps(line | facts_of(setting)), flush=True)


def facts_of(setting: Setting) -> dict[str, Any]:
    order = setting.demands["train"].order
    clips = [ref.location.num_frames for ref in islice(order.visits(), order.num_clips)]
    return {
        "windows_per_clip": setting.window.windows_per_clip,
        "num_clips": len(clips),
        "mean_clip_frames": round(sum(clips) / len(clips), 1),
        "load": round(os.getloadavg()[0], 1),
    }


def make_shards(folder: str, size_px: int) -> str:
    """Of the real test videos where they are, else of moving dots."""
    if not VIDEOS.is_dir():
        return write_shard_set(Path(folder) / "dots", 48, 16, (50, 100), size_px=size_px)
    return in_own_process(_preprocess, f"{folder}/videos", size_px)


def _preprocess(uri: str, size_px: int) -> str:
    from data_pipelines.preprocess.config import PreprocessConfig
    from data_pipelines.preprocess.job import preprocess
    from lafp.config import load_config

    start_ray()
    overrides = [
        f"source={VIDEOS}",
        "val_fraction=0.0",
        "max_reject_fraction=1.0",
        "shards.max_bytes=400000",
        f"resize={{width_px: {size_px}, height_px: {size_px}}}",
    ]
    preprocess(
        load_config(PreprocessConfig, Path("configs/preprocess/videos.yaml"), overrides), uri
    )
    return uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", help="a local shard set; made of test videos where it is none")
    parser.add_argument("--size-px", type=int, default=64, help="of the shards that are made")
    parser.add_argument("--windows-per-clip", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--clips", type=int, default=400, help="visits to clips per turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--readers", type=int, default=1, help="cores that decode, in our modes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shards = args.shards or make_shards(folder, args.size_px)
        for windows_per_clip in args.windows_per_clip:
            setting = Setting(shards, windows_per_clip, args.readers)
            report(setting, measure(setting, args.clips, args.rounds))
        report_waiting(setting, args.rounds)


if __name__ == "__main__":
    main()
