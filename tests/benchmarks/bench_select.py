"""What it costs to decide about all clips of a source: copies, splits and the layout of shards.

python -m tests.benchmarks.bench_select 20000 100000           # one JSON line per number of clips
python -m tests.benchmarks.bench_select --against 20000        # and a finished set of as many clips
python -m tests.benchmarks.bench_select --files-only 5000000   # without near-duplicates
python -m tests.benchmarks.bench_select 100000 --nodes 1 2 4   # local nodes of one CPU each

The parts are made up: clips of 10 s, five per video. One video in a hundred is a copy of an earlier
file, one in ten shows the episode of the one before it, and one clip in fifty is a noisy copy of an
earlier clip. Everything from the parts to the table of clips is measured, on a local Ray of as many
CPUs as the machine has, whatever the size, or on local nodes (raylets of this machine). CPU seconds
are those of all processes, Ray's own too. `ratio`: CPU per clip, against that of the first line.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.config import PreprocessConfig, TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import select
from data_pipelines.preprocess.manifest import clips_table, shard_set, write_rejects
from data_pipelines.preprocess.plan import make_plan
from data_pipelines.preprocess.rows import ClipRow, ItemRows, VideoItem, VideoRow
from data_pipelines.preprocess.select.signatures import write_signatures
from lafp.data.shards.format import ClipRecord
from lafp.storage import strict_json
from tests.benchmarks.bench_duplicates import Watch, num_bytes, signatures
from tests.benchmarks.own_process import in_own_process
from tests.data_pipelines.preprocess.test_scale import write_known_set

SIZES = (20_000, 100_000)
CLIPS_PER_VIDEO, VIDEOS_PER_PART = 5, 50
COPY_EVERY, EPISODE_EVERY = 100, 10
FIRST_COPY = 299
"""Earlier videos hold the clips of which there are noisy copies."""


def is_copy(video: int) -> bool:
    """Whether the file repeats an earlier one."""
    return video >= FIRST_COPY and video % COPY_EVERY == COPY_EVERY - 1


def item_of(number: int, part: str) -> ItemRows:
    """A video of five clips. The content decides its id, the number its name."""
    content = number - 60 if is_copy(number) else number
    rng = np.random.default_rng(content)
    video_id, uri = rng.bytes(16).hex(), f"s3://bucket/some/prefix/video_{number:08d}.mp4"
    shared = number % EPISODE_EVERY in (0, 1)
    episode_id = np.random.default_rng([1, number // EPISODE_EVERY]).bytes(16).hex()
    motion = rng.integers(0, 3000, 99).tolist()
    clips = tuple(
        ClipRow(
            record=ClipRecord(
                clip_id=rng.bytes(16).hex(), video_id=video_id, video_uri=uri, source="made-up",
                episode_id=episode_id if shared else video_id, split="train", start_s=10.0 * i,
                end_s=10.0 * (i + 1), fps=10.0, width_px=64, height_px=64, num_frames=100,
                source_fps=30.0, source_width_px=640, source_height_px=480, source_codec="h264",
                motion=0.02, has_labels=False, num_bytes=59_000, pair_motion=tuple(motion),
            ),
            part=f"{part}.tar",
            video_offset=60_000 * (CLIPS_PER_VIDEO * (number % VIDEOS_PER_PART) + i),
        )
        for i in range(CLIPS_PER_VIDEO)
    )  # fmt: skip
    video = VideoRow(
        uri=uri,
        video_id=video_id,
        split=None,
        num_bytes=1,
        duration_s=10.0 * CLIPS_PER_VIDEO,
        episode_id=episode_id if shared else "",
    )
    return ItemRows(videos=(video,), clips=clips)


def make_parts(num_clips: int, folder: Path, cfg: PreprocessConfig):
    """Writes a plan and its parts. Returns it, and the ids of noisy copies and their originals."""
    num_videos = num_clips // CLIPS_PER_VIDEO
    uris = (f"s3://bucket/some/prefix/video_{number:08d}.mp4" for number in range(num_videos))
    items = (VideoItem(uri=uri, num_bytes=1, split=None) for uri in uris)
    plan = make_plan(items, cfg.tasks, str(folder / "work"))
    looks = signatures(num_clips)
    ids: list[str] = []
    copies: dict[str, str] = {}
    number = 0
    for chunk in range(plan.num_chunks):
        for task in plan.tasks(chunk):
            rows = [item_of(number + i, task.part) for i in range(len(task.items))]
            number += len(rows)
            strict_json.write(str(folder / "work" / f"{task.part}.json"), rows)
            if cfg.filters.drop_duplicates:
                of_part = {}
                for clip in (clip for item in rows for clip in item.clips):
                    of_part[clip.video_offset], original = next(looks)
                    ids.append(clip.record.clip_id)
                    if original is not None and not is_copy((len(ids) - 1) // CLIPS_PER_VIDEO):
                        copies[clip.record.clip_id] = ids[original]
                write_signatures(str(folder / "work"), f"{task.part}.tar", of_part)
    return plan, copies


@contextmanager
def running_ray(num_nodes: int | None) -> Iterator[None]:
    """A Ray of this machine, or of as many local nodes with one logical CPU each."""
    cluster, address = None, "local"
    if num_nodes is not None:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(num_nodes - 1):
            cluster.add_node(num_cpus=1)
        address = cluster.address
    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()


def measured(
    num_clips: int, folder: Path, files_only: bool, against: bool, num_nodes: int | None
) -> dict[str, float]:
    """Makes up parts, and decides about their clips."""
    cfg = PreprocessConfig(
        source="made-up",
        tasks=TasksConfig(videos_per_task=VIDEOS_PER_PART),
        filters=FiltersConfig(drop_duplicates=not files_only),
    )
    # In a process of its own, so that the memory is not counted.
    plan, copies = in_own_process(make_parts, num_clips, folder, cfg)
    if against:
        items = [item_of(10**8 + n, f"known-{n}") for n in range(num_clips // CLIPS_PER_VIDEO)]
        known = write_known_set(items, folder / "known", {}, clips_per_shard=2_270)
        cfg = replace(cfg, filters=replace(cfg.filters, against=[known]))
    before_bytes = num_bytes(folder)
    with running_ray(num_nodes), Watch() as watch:
        selected = select(cfg, plan, str(folder), FileCounts(), in_process_bytes=0)
        spec = shard_set(selected, cfg)
        with clips_table(str(folder), selected, cfg.shards.max_bytes) as layouts:
            num_shards = sum(1 for _ in layouts)
        write_rejects(str(folder), selected.rejects())
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    found = [row for row in rejects if row["reason"] == "near_duplicate"]
    num_files = sum(row["reason"] == "same_file" for row in rejects)
    num_videos = num_clips // CLIPS_PER_VIDEO
    assert num_files == sum(map(is_copy, range(num_videos)))
    num_kept = sum(spec.num_clips.values())
    assert num_kept + len(found) + CLIPS_PER_VIDEO * num_files == num_clips
    result = {
        "ms_per_clip": round(1000 * watch.cpu_s / num_clips, 3),
        "cpu_s": round(watch.cpu_s, 1),
        "wall_s": round(watch.wall_s, 1),
        "shards": num_shards,
        "val_share": round(spec.num_clips["val"] / num_kept, 4),
        "disk_bytes_per_clip": round((num_bytes(folder) - before_bytes) / num_clips),
        "driver_peak_mib": watch.driver_mib,
        "worker_peak_mib": watch.worker_mib,
    }
    return result if files_only else result | quality(found, copies, folder)


def quality(found: list[dict[str, str]], copies: dict[str, str], folder: Path) -> dict[str, float]:
    """How many of the planted copies were found, and how many found ones were planted."""
    kept = set(pq.read_table(folder / "clips", columns=["clip_id"])["clip_id"].to_pylist())
    originals = set(copies.values())
    num_found = sum(clip not in kept for clip in copies)
    num_right = sum(row["original_clip_id"] in originals for row in found)
    return {
        "recall": round(num_found / len(copies), 4),
        "precision": round(num_right / max(1, len(found)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=[str(size) for size in SIZES])
    parser.add_argument("--files-only", action="store_true")
    parser.add_argument("--against", action="store_true")
    parser.add_argument("--nodes", type=int, nargs="+", default=[None])
    args = parser.parse_args()
    first_ms = 0.0
    for num_nodes, size in product(args.nodes, map(int, args.sizes)):
        with tempfile.TemporaryDirectory() as folder:
            call = (measured, size, Path(folder), args.files_only, args.against, num_nodes)
            found = in_own_process(*call)  # which holds nothing of the one before
        first_ms = first_ms or found["ms_per_clip"]
        line = {"bench": f"select/{size}", "ratio": round(found["ms_per_clip"] / first_ms, 3)}
        if num_nodes is not None:
            line["nodes"] = num_nodes
        print(json.dumps(line | found), flush=True)


if __name__ == "__main__":
    main()
