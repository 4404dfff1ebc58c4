"""What Ray, DeepSpeed and our loop cost over a bare torch loop, at a step of 200 ms.

python -m tests.benchmarks.bench_overhead [--rounds 3] [--steps 40] [--zero-stage 2] [--ingest ray]

The bare loop holds all clips in memory and does no more than the step: windows, forward and
backward pass, AdamW, in a process of its own without Ray. Against it stands a whole training job on
one worker: clips decoded at every visit, DeepSpeed, metrics. Both train one LAM with one
thread; the batch is chosen so that the bare step takes about 200 ms. They take turns, a process
each per round. ``ratio`` is the bare loop's mean seconds per step over ours, the median over
rounds; ``cpu_ratio`` the same in CPU seconds of the training process alone, which other work on the
machine hardly changes.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from lafp.config import config_from_dict
from lafp.data.windows import cut_windows
from lafp.runs.run_dir import StageDir
from lafp.train.context import LocalContext
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from lafp.train.tasks.trained_lam import LamInputs
from ray_jobs.training.trainer import fit
from tests.synthetic_shards import write_shard_set

TARGET_S, NUM_WARMUP_STEPS, PROBE_BATCH_SIZE = 0.2, 10, 16
NUM_CLIPS, NUM_FRAMES, SIZE_PX, WINDOWS_PER_CLIP = 64, 16, 64, 4


def config(batch_size: int, num_steps: int, zero_stage: int, ingest: str) -> TrainLamConfig:
    raw = {
        "objective": {
            "name": "lapo",
            "latent_action_dim": 32,
            "encoder": {"name": "impala", "scale": 1},
            "fdm": {"channels": [16, 32, 64]},
            "target": "residual",
            "bottleneck": {"name": "vq"},
        },
        "window": {"windows_per_clip": WINDOWS_PER_CLIP},
        "train": {
            "num_steps": num_steps,
            "global_batch_size": batch_size,
            "engine": {"name": "deepspeed", "zero_stage": zero_stage},
            "ingest": {"mode": ingest, "cache_bytes": 0},
            "report_every_steps": 10,
            "evaluate_every_steps": num_steps,
            "checkpoint_every_steps": num_steps,
        },
    }
    return config_from_dict(TrainLamConfig, raw)


class Stamps:
    """When steps begin: on the wall, and in CPU seconds of this process."""

    def __init__(self) -> None:
        self._at: list[tuple[float, float]] = []

    def step_begins(self) -> None:
        self._at.append((time.perf_counter(), time.process_time()))

    def mean_s(self) -> list[float]:
        """Of a step after the warm-up: seconds and CPU seconds."""
        at = np.array(self._at[NUM_WARMUP_STEPS:])
        return ((at[-1] - at[0]) / (len(at) - 1)).tolist()


class StampedTask(LamTask):
    """Writes down, at its end, how long its steps took."""

    def __init__(self, path: str, *args: Any) -> None:
        torch.set_num_threads(1)
        super().__init__(*args)
        self._stamps, self._path = Stamps(), path

    def inputs(self, clips):
        self._stamps.step_begins()
        return super().inputs(clips)

    def save(self, module, uri, metrics) -> None:
        Path(self._path).write_text(json.dumps(self._stamps.mean_s()))


def bare(cfg: TrainLamConfig, shards: str) -> list[float]:
    """What one would write for one experiment."""
    torch.set_num_threads(1)
    task = LamTask(cfg, shards, None)
    optimizer = torch.optim.AdamW(task.module.parameters(), cfg.train.optim.lr, fused=True)
    batches = LocalContext("", cache_bytes=0).clips(task.demands(), 1, 0)
    clips = [batch["train"] for batch in islice(batches, 4)]
    stamps = Stamps()
    for step in range(cfg.train.num_steps):
        stamps.step_begins()
        window = cut_windows(clips[step % len(clips)], cfg.window, cfg.train.seed)
        task.module(LamInputs(window=window, labeled=None)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.module.after_step()
    return stamps.mean_s()


def ours(cfg: TrainLamConfig, shards: str, folder: str) -> list[float]:
    """The same as a job."""
    path = f"{folder}/stamps.json"
    fit(StageDir(folder, "lam"), cfg.train, partial(StampedTask, path, cfg, shards, None))
    return json.loads(Path(path).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--zero-stage", type=int, default=2)
    parser.add_argument("--ingest", default="ray")
    args = parser.parse_args()
    num_steps = NUM_WARMUP_STEPS + args.steps
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, processes.Pool(1, maxtasksperchild=1) as pool:
        shards = write_shard_set(
            Path(folder) / "videos", NUM_CLIPS, 16, (NUM_FRAMES, NUM_FRAMES), SIZE_PX
        )
        probe = config(PROBE_BATCH_SIZE, 2 * NUM_WARMUP_STEPS, args.zero_stage, args.ingest)
        clips_per_s = PROBE_BATCH_SIZE / WINDOWS_PER_CLIP / pool.apply(bare, (probe, shards))[1]
        batch_size = max(1, round(TARGET_S * clips_per_s)) * WINDOWS_PER_CLIP
        cfg = config(batch_size, num_steps, args.zero_stage, args.ingest)
        rounds = [
            (pool.apply(bare, (cfg, shards)), ours(cfg, shards, f"{folder}/{n}"))
            for n in range(args.rounds)
        ]
    report(np.array(rounds), batch_size, args)


def report(rounds: np.ndarray, batch_size: int, args: argparse.Namespace) -> None:
    """Of seconds, [rounds, (bare, ours), (wall, CPU)]."""
    (bare_ms, bare_cpu_ms), (ms, cpu_ms) = np.round(1000 * np.median(rounds, axis=0), 1).tolist()
    ratio, cpu_ratio = np.round(np.median(rounds[:, 0] / rounds[:, 1], axis=0), 3).tolist()
    line = {
        "bench": "overhead/ray_train_deepspeed",
        "batch_size": batch_size,
        "zero_stage": args.zero_stage,
        "ingest": args.ingest,
        "bare_ms": bare_ms,
        "ms": ms,
        "bare_cpu_ms": bare_cpu_ms,
        "cpu_ms": cpu_ms,
        "cpu_ratio": cpu_ratio,
        "ratio": ratio,
        "rounds": len(rounds),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
