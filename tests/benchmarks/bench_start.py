"""Measures how long jobs take to start: whole processes, from the command to its end.

python -m tests.benchmarks.bench_start [--rounds 5]

Prints a JSON line per command with the medians: ``wall_s``, and ``cpu_s`` of all processes that the
command starts, those of Ray too. The trainings take one step, so nearly all of their time is start.
``train_lam`` and ``dry_run`` have a small config, which reads the shards in the worker
(``ingest.mode: direct``) on engine ``ddp``; ``train_lam_default`` leaves both as they are by
default: readers on Ray, and ZeRO-2.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.synthetic_shards import write_shard_set
from tests.synthetic_video import moving_square, write_video

_POLL_S = 0.05


def commands(folder: Path) -> dict[str, list[str]]:
    """Maps names to command lines, which find their inputs below the folder."""
    videos = folder / "videos"
    videos.mkdir()
    for number in range(3):
        write_video(videos / f"{number}.mp4", moving_square(60, seed=number))
    shards = write_shard_set(folder / "shards", num_clips=32)
    lam = ["train_lam", "configs/train_lam/lapo_debug.yaml", f"shards={shards}"]
    lam += ["train.num_steps=1", "train.optim.warmup_steps=0", "train.global_batch_size=8"]
    direct = [*lam, "train.ingest.mode=direct"]
    preprocess = ["preprocess", "configs/preprocess/videos.yaml", f"source={videos}"]
    return {
        "help": ["train_lam", "--help"],
        "dry_run": [*direct, "--dry-run"],
        "preprocess": preprocess,
        "train_lam": direct,
        "train_lam_default": [*lam, "train.engine={name: deepspeed, zero_stage: 2}"],
    }


def measured(name: str, command: list[str], storage: str) -> tuple[float, float]:
    """Runs a job, in a run of this name.

    Returns:
        Its wall time, and the CPU time of it and of all that it started.
    """
    where = [] if "--help" in command else ["--storage", storage, "--run-name", name]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"ray_jobs.{command[0]}", *command[1:], *where],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        seen: dict[int, float] = {}
        while process.poll() is None:
            with suppress(psutil.Error):
                job = psutil.Process(process.pid)
                for one in (job, *job.children(recursive=True)):
                    with suppress(psutil.Error):
                        times = one.cpu_times()
                        seen[one.pid] = times.user + times.system
            time.sleep(_POLL_S)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(output.read())
    return time.perf_counter() - start, sum(seen.values())


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        lines = commands(Path(folder))
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
        for number in range(rounds):
            for name, command in lines.items():
                found[name].append(measured(name, command, f"{folder}/runs-{number}"))
    for name, times in found.items():
        wall_s, cpu_s = (statistics.median(values) for values in zip(*times, strict=True))
        line = {"bench": f"start/{name}", "wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)}
        print(json.dumps(line | {"rounds": rounds}))


if __name__ == "__main__":
    main()
