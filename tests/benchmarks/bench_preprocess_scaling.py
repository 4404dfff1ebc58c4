"""What one video costs `preprocess` among few and among many: it should not grow.

python -m tests.benchmarks.bench_preprocess_scaling [NUM ...]    # one JSON line per number

Small generated videos, no two alike, with the search for near-duplicates. `ratio`: CPU seconds per
video, against those with the fewest videos. The start-up of a job is subtracted.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import ray

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.job import preprocess
from tests.benchmarks.bench_preprocess import Family, quiet

SIZES = (100, 1_000, 10_000)
NUM_FRAMES, HEIGHT, WIDTH, FPS = 20, 48, 64, 10
CFG = PreprocessConfig(
    resize=ResizeConfig(width_px=32, height_px=32), filters=FiltersConfig(drop_duplicates=True)
)
# Few videos are over soon: several runs, of which the median counts.
_FRAMES_TIMED = 40_000


def write_small_video(path: Path, seed: int) -> None:
    """Blurred noise that drifts over to other noise."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (2, 6, 8, 3)).astype(np.float32)
    first, last = cells.repeat(HEIGHT // 6, axis=1).repeat(WIDTH // 8, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "ultrafast", "crf": "28"}
        for t in range(NUM_FRAMES):
            share = t / (NUM_FRAMES - 1)
            pixels = ((1 - share) * first + share * last).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def cost(num: int, pool: Path, family: Family) -> tuple[float, float]:
    """CPU and wall-clock seconds of a job over the first videos of the pool."""
    with tempfile.TemporaryDirectory() as name, quiet():
        source = Path(name) / "source"
        source.mkdir()
        for i in range(num):
            os.link(pool / f"{i:06d}.mp4", source / f"{i:06d}.mp4")
        cpu_s, start_s = family.cpu_s(), time.monotonic()
        summary = preprocess(replace(CFG, source=str(source)), str(Path(name) / "set"))
        cpu_s, wall_s = family.cpu_s() - cpu_s, time.monotonic() - start_s
        assert summary["num_clips"] == num, summary
    return cpu_s, wall_s


def main(sizes: list[int]) -> None:
    family = Family()
    num_cores = os.cpu_count() or 1
    ray.init(num_cpus=num_cores, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as name:
        pool = Path(name)
        for i in range(max(sizes)):
            write_small_video(pool / f"{i:06d}.mp4", i)
        few = num_cores * CFG.tasks.videos_per_task  # every core starts its processes
        cost(few, pool, family)
        start_up = np.median([cost(few, pool, family) for _ in range(5)], axis=0)
        smallest_s = 0.0
        for size in sizes:
            num_runs = max(1, _FRAMES_TIMED // (size * NUM_FRAMES))
            runs = [cost(size, pool, family) for _ in range(min(num_runs, 5))]
            cpu_s, wall_s = (np.median(runs, axis=0) - start_up) / (size - few)
            smallest_s = smallest_s or cpu_s
            line = {
                "bench": f"preprocess_scaling/{size}",
                "ratio": round(cpu_s / smallest_s, 3),
                "cpu_ms_per_video": round(1000 * cpu_s, 2),
                "wall_ms_per_video": round(1000 * wall_s, 2),
                "start_up_cpu_s": round(start_up[0], 2),
                "runs": len(runs),
                "load": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or list(SIZES))
