"""The driver's memory does not grow with the corpus; nor does what it decides."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.measure.signature import signature
from data_pipelines.preprocess.config import PreprocessConfig, TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import select
from data_pipelines.preprocess.manifest import clips_table, shard_set, write_rejects
from data_pipelines.preprocess.plan import Plan, make_plan
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import ClipRow, ItemRows, VideoItem, VideoRow
from data_pipelines.preprocess.select.signatures import write_shard_signatures, write_signatures
from data_pipelines.preprocess.shards import ShardsConfig
from lafp.data.shards.format import ClipRecord, ShardEntry, ShardSet, signatures_name
from lafp.storage import strict_json
from lafp.storage.tables import open_table
from ray_jobs.core.cluster import start_local

ROOT = Path(__file__).parents[3]
CLIPS_PER_VIDEO = 5
CFG = PreprocessConfig(
    source="synthetic",
    filters=FiltersConfig(drop_duplicates=True),
    shards=ShardsConfig(max_bytes=2**21),
    tasks=TasksConfig(videos_per_task=50),
)


def rows_of(number: int) -> ItemRows:
    """What a task makes of one video: five clips of 10 s, the last of them static."""
    rng = np.random.default_rng(number)
    video_id, uri = rng.bytes(16).hex(), f"s3://bucket/some/prefix/video_{number:08d}.mp4"
    clips = tuple(
        ClipRow(
            record=ClipRecord(
                clip_id=rng.bytes(16).hex(), video_id=video_id, video_uri=uri, source="synthetic",
                episode_id=video_id, split="train", start_s=10.0 * i, end_s=10.0 * (i + 1),
                fps=10.0, width_px=64, height_px=64, num_frames=100, source_fps=30.0,
                source_width_px=640, source_height_px=480, source_codec="h264", motion=0.02,
                has_labels=False, num_bytes=50_000,
            ),
            part=f"{video_id}.tar", video_offset=50_000 * i,
        )
        for i in range(CLIPS_PER_VIDEO - 1)
    )  # fmt: skip
    video = VideoRow(uri=uri, video_id=video_id, split=None, num_bytes=1, duration_s=50.0)
    static = RejectRow(video_uri=uri, start_s=40.0, end_s=50.0, reason="static")
    return ItemRows(videos=(video,), clips=clips, rejects=(static,))


def write_looks(
    rows: Iterable[ItemRows], work: Path, looks: Mapping[str, np.ndarray] | None = None
) -> None:
    """Writes the signatures of videos: random pictures, or those given by a clip's id."""
    for item in rows:
        signatures = {}
        for clip in item.clips:
            # The whole id: among 400,000 clips, some would share 32 bits of theirs and look alike.
            rng = np.random.default_rng(int(clip.record.clip_id, 16))
            pictures = (looks or {}).get(clip.record.clip_id)
            if pictures is None:
                pictures = rng.random((6, 8, 8, 3), np.float32)
            signatures[clip.video_offset] = bytes.fromhex(signature(pictures, 10.0).to_hex())
        write_signatures(str(work), item.clips[0].part, signatures)


def write_known_set(
    rows: Sequence[ItemRows], folder: Path, looks: Mapping[str, np.ndarray], clips_per_shard: int
) -> str:
    """Writes what the search reads of a finished set: all but the shards themselves."""
    write_looks(rows, folder / "work", looks)
    clips = [clip for item in rows for clip in item.clips]
    with (
        open_table(str(folder / "clips/part-00000.parquet"), ClipRecord, {"shard": str}) as table,
        open_table(str(folder / "manifest.parquet"), ShardEntry) as manifest,
    ):
        for number, of_shard in enumerate(batched(clips, clips_per_shard)):
            shard = f"train-{number:06d}.tar"
            uri = str(folder / signatures_name(shard))
            write_shard_signatures(uri, of_shard, str(folder / "work"))
            for clip in of_shard:
                table.add(vars(clip.record) | {"shard": shard})
            sizes = {"num_clips": len(of_shard), "num_frames": 1, "num_bytes": 1}
            manifest.add({"shard": shard, "split": "train", "sha256": "0" * 64, **sizes})
    spec = ShardSet(
        source="synthetic", width_px=64, height_px=64, fps=10.0, num_clips={"train": len(clips)},
        num_frames={"train": 100 * len(clips)}, num_hours=1.0, min_clip_frames=100,
        max_clip_frames=100, num_clip_files=1, has_signatures=True,
    )  # fmt: skip
    strict_json.write(str(folder / "shard_set.json"), spec)
    shutil.rmtree(folder / "work")
    return str(folder)


def batched(clips: Sequence[ClipRow], size: int) -> Iterator[Sequence[ClipRow]]:
    for start in range(0, len(clips), size):
        yield clips[start : start + size]


def made_parts(num_videos: int, folder: Path, cfg: PreprocessConfig) -> Plan:
    """A plan whose parts are made."""
    items = (
        VideoItem(uri=f"s3://bucket/some/prefix/video_{number:08d}.mp4", num_bytes=1, split=None)
        for number in range(num_videos)
    )
    plan = make_plan(items, cfg.tasks, str(folder / "work"))
    number = 0
    for chunk in range(plan.num_chunks):
        for task in plan.tasks(chunk):
            rows = [rows_of(number + i) for i in range(len(task.items))]
            number += len(rows)
            strict_json.write(str(folder / "work" / f"{task.part}.json"), rows)
            if cfg.filters.drop_duplicates:
                write_looks(rows, folder / "work")
    return plan


def decide(num_videos: int, folder: Path, cfg: PreprocessConfig) -> None:
    """All that the job does between the parts and the shards, on Ray Data."""
    plan = made_parts(num_videos, folder, cfg)
    selected = select(cfg, plan, str(folder), FileCounts(), in_process_bytes=0)
    assert shard_set(selected, cfg).num_clips["train"] > 3 * num_videos
    with clips_table(str(folder), selected, cfg.shards.max_bytes) as layouts:
        num_clips = sum(span[2] for layout in layouts for span in layout.spans)
    assert num_clips == 4 * num_videos
    write_rejects(str(folder), selected.rejects())


def main(num_videos: int, folder: Path, drop_duplicates: bool) -> None:
    start_local(2)
    decide(num_videos, folder, replace(CFG, filters=FiltersConfig(drop_duplicates=drop_duplicates)))
    ray.shutdown()
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(int(peak[1]) // 1024)


def peak_memory_mib(num_videos: int, folder: Path, drop_duplicates: bool) -> int:
    """Of the driver, a fresh process."""
    call = f"main({num_videos}, Path({str(folder)!r}), {drop_duplicates})"
    code = f"from tests.data_pipelines.preprocess.test_scale import *; {call}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return int(result.stdout.split()[-1])


def test_the_drivers_memory_does_not_grow_with_the_corpus(tmp_path):
    few = peak_memory_mib(2_600, tmp_path / "few", drop_duplicates=False)
    many = peak_memory_mib(10_400, tmp_path / "many", drop_duplicates=False)
    # Ray's own memory and buffers of tables make it 20 to 31 MiB. 31,200 rows would add 47 to that.
    assert many - few < 50, (few, many)


def test_a_selection_in_other_blocks_begins_anew(tmp_path):
    cfg = replace(CFG, filters=FiltersConfig())
    plan = made_parts(200, tmp_path, cfg)
    for block_bytes in (50_000, 400_000):
        selected = select(cfg, plan, str(tmp_path), FileCounts(), block_bytes)
        assert sum(shard_set(selected, cfg).num_clips.values()) == 800
    assert len(list((tmp_path / "work/select").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_driver_decides_on_a_hundred_thousand_videos_below_500_mib(tmp_path):
    peak = peak_memory_mib(100_000, tmp_path, drop_duplicates=True)
    assert peak < 500
