"""Writes the tables and totals of a shard set, and checks that nothing was lost."""

import math
import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipelines.preprocess.action_statistics import ActionStatistics
from data_pipelines.preprocess.clip.labels.read import ASSUMED_FPS
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.faults import TOLERANCE_S, uneven
from data_pipelines.preprocess.file_counts import FileTable
from data_pipelines.preprocess.rejects import RejectCounts, RejectRow, reject_rows
from data_pipelines.preprocess.rows import ItemRows
from data_pipelines.preprocess.select.selection import Selected
from data_pipelines.preprocess.select.steps import column
from data_pipelines.preprocess.shards import ShardLayout, lay_out_shards
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.clip_tables import FOLDER, ROWS_PER_FILE, clip_file, num_clip_files
from lafp.data.shards.format import ClipRecord, ShardEntry, ShardSet, Split
from lafp.data.shards.sets import read_entry
from lafp.storage.divided_table import open_divided_table
from lafp.storage.map_ahead import map_ahead
from lafp.storage.tables import open_table, schema_of, write_rows, write_tables


def check_accounts(item: ItemRows) -> None:
    """Checks that clips and rejects cover every video of an input without gap or overlap.

    Raises:
        RuntimeError: They do not, which is a fault of this pipeline.
    """
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for clip in item.clips:
        spans[clip.record.video_uri].append((clip.record.start_s, clip.record.end_s))
    for row in item.rejects:
        spans[row.video_uri].append((row.start_s, row.end_s))
    for video in item.videos:
        if what := uneven(spans[video.uri], 0.0, video.duration_s):
            raise RuntimeError(f"{video.uri}: {what}. Please report this.")


def check_totals(summary: dict[str, Any]) -> None:
    """Checks that the seconds of clips and rejects add up to those of the inputs.

    Raises:
        RuntimeError: They do not, which is a fault of this pipeline.
    """
    funnel = summary["funnel"]
    outcomes = [funnel["clips"], *funnel["rejects"].values()]
    out_s, in_s = sum(outcome["seconds"] for outcome in outcomes), funnel["inputs"]["seconds"]
    num_spans = sum(outcome["spans"] for outcome in outcomes)
    # Every span may be off by the rounding of its two ends.
    if abs(out_s - in_s) > TOLERANCE_S * max(1, num_spans):
        raise RuntimeError(
            f"The videos have {in_s:.3f} s, clips and rejects {out_s:.3f} s. Please report this."
        )


def write_rejects(uri: str, rejects: Iterable[pa.Table]) -> None:
    """Writes ``rejects.parquet``."""
    write_tables(storage.join(uri, "rejects.parquet"), schema_of(RejectRow), rejects)


def write_reject_rows(uri: str, rejects: Iterable[RejectRow]) -> None:
    """Writes ``rejects.parquet`` from rows."""
    write_rows(storage.join(uri, "rejects.parquet"), RejectRow, rejects)


@contextmanager
def clips_table(uri: str, selected: Selected, max_bytes: int) -> Iterator[Iterator[ShardLayout]]:
    """Yields the layouts of all shards, and writes the table of clips on the way."""
    schema, written = schema_of(ClipRecord, {"shard": str}), set[str]()

    def uri_of(number: int) -> str:
        name = clip_file(number)
        written.add(name.rpartition("/")[2])
        return storage.join(uri, name)

    with open_divided_table(uri_of, schema, ROWS_PER_FILE) as add:
        yield _recorded(selected, max_bytes, add)
    # An earlier run that was killed may have had more clips, before a takedown.
    for info in storage.list_files(storage.join(uri, FOLDER)):
        if info.uri.rpartition("/")[2] not in written:
            storage.delete(info.uri)


def _recorded(
    selected: Selected, max_bytes: int, add: Callable[[pa.Table], None]
) -> Iterator[ShardLayout]:
    tables: dict[int, pa.Table] = {}
    shards: list[str] = []

    def sizes() -> Iterator[tuple[Split, int, np.ndarray]]:
        for number in selected.kept:
            table = tables[number] = selected.clips(number)
            num_bytes = column(table, "num_bytes") + column(table, "labels_bytes")
            yield table["split"][0].as_py(), number, num_bytes

    for layout in lay_out_shards(sizes(), max_bytes):
        for table, _, num_rows in layout.spans:
            shards += [layout.shard] * num_rows
            if len(shards) == len(tables[table]):
                add(tables.pop(table).append_column("shard", pa.array(shards, pa.string())))
                shards.clear()
        yield layout


def write_manifest(uri: str, shards: Iterable[str]) -> tuple[int, int]:
    """Writes ``manifest.parquet`` from the shards' entries.

    Returns:
        Number of shards, and of their bytes.
    """
    num_shards = num_bytes = 0
    with open_table(storage.join(uri, "manifest.parquet"), ShardEntry) as table:
        for entry in map_ahead(partial(read_entry, uri), shards):
            table.add(vars(entry))
            num_shards, num_bytes = num_shards + 1, num_bytes + entry.num_bytes
    return num_shards, num_bytes


def shard_set(selected: Selected, cfg: PreprocessConfig) -> ShardSet:
    """Describes the whole set: size and rate of frames, counts per split, and action statistics.

    Raises:
        ConfigError: There is no clip.
    """
    every, train = ActionStatistics(), ActionStatistics()
    num_clips, num_frames, num_masked = Counter[str](), Counter[str](), Counter[str]()
    seconds, slowest, fastest = 0.0, math.inf, 0.0
    shortest, longest = sys.maxsize, 0
    for total in selected.kept_totals():
        if total.sums is not None:
            every.add(total.sums)
            if total.split == "train":
                train.add(total.sums)
        num_clips[total.split] += total.num_clips
        num_frames[total.split] += total.num_frames
        num_masked[total.split] += total.num_masked
        seconds += total.seconds
        slowest, fastest = min(slowest, total.slowest), max(fastest, total.fastest)
        shortest, longest = min(shortest, total.shortest), max(longest, total.longest)
    if not num_clips:
        rejects = RejectCounts()
        rejects.add(reject_rows(selected.rejects()))
        raise ConfigError(
            f"No clips in {cfg.source}, because every video was rejected. {rejects.in_words()} "
            "Name another source, or loosen what rejects these."
        )
    if cfg.masks is not None and not num_masked.total():
        raise ConfigError(
            f"masks: no video of {cfg.source} has masks in {cfg.masks.source}. The masks of "
            "SOURCE/a/b.mp4 must be MASKS/a/b.mp4, or pictures in MASKS/a/b/."
        )
    optical_flow = cfg.optical_flow
    return ShardSet(
        source=cfg.name,
        width_px=cfg.resize.width_px,
        height_px=cfg.resize.height_px,
        fps=slowest if slowest == fastest else None,
        num_clips=dict(num_clips),
        num_frames=dict(num_frames),
        num_hours=seconds / 3600,
        min_clip_frames=shortest,
        max_clip_frames=longest,
        num_clip_files=num_clip_files(num_clips.total()),
        num_masked_clips=dict(+num_masked),
        has_signatures=cfg.filters.drop_duplicates,
        action=_action(every, train) if cfg.labels is not None else None,
        optical_flow_size_px=(
            [optical_flow.height_px, optical_flow.width_px] if optical_flow else None
        ),
    )


def _action(every: ActionStatistics, train: ActionStatistics) -> dict[str, object]:
    """Returns the fields of ``ActionSpec``: bounds of all clips, statistics of training pairs."""
    train = train if train.num_rows else every
    if every.num_choices:
        return {"dim": every.num_choices, "is_discrete": True, "low": [], "high": []}
    # Statistics come from training clips only, because held-out clips must not shape what is
    # trained. Bounds that the labels state are facts of the robot, so all clips count.
    bounds = every if every.is_bounded else train
    return {
        "dim": len(bounds.low),
        "is_discrete": False,
        "low": bounds.low.tolist(),
        "high": bounds.high.tolist(),
        **train.per_dimension(),
    }


def summarize(
    selected: Selected, spec: ShardSet, files: FileTable, num_shards: int, num_bytes: int
) -> dict[str, object]:
    """Builds the stage's summary: totals, and the funnel from inputs over rejects to clips."""
    num_videos = num_with_clips = num_assumed = 0
    spans, fallbacks = Counter[str](), Counter[str]()
    # Arrays, because a large source has a million blocks.
    video_s = array("d")
    rejected_s: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    for total in selected.block_totals():
        num_videos += total.num_videos
        num_with_clips += total.num_with_clips
        num_assumed += total.num_rates_assumed
        spans.update(total.spans)
        fallbacks.update(total.fallbacks)
        video_s.append(total.video_s)
        for reason, seconds in total.seconds.items():
            rejected_s[reason].append(seconds)
    in_s = math.fsum(video_s)
    assumed = {"labels.fps": {"value": ASSUMED_FPS, "videos": num_assumed}} if num_assumed else {}
    clip_s = 3600 * spec.num_hours
    num_clips = sum(spec.num_clips.values())
    return {
        "num_videos": num_videos,
        "num_videos_with_clips": num_with_clips,
        "num_clips": num_clips,
        "num_val_clips": spec.num_clips.get("val", 0),
        "num_masked_clips": sum(spec.num_masked_clips.values()),
        "num_frames": sum(spec.num_frames.values()),
        "num_shards": num_shards,
        "num_bytes": num_bytes,
        "hours_in": in_s / 3600,
        "hours_out": clip_s / 3600,
        "num_rejects": spans.total(),
        "assumed": assumed,
        "decoder_fallbacks": _most_first(fallbacks),
        "files": files,
        "funnel": {
            "inputs": {"videos": num_videos, "seconds": in_s},
            "rejects": {
                reason: {"spans": count, "seconds": math.fsum(rejected_s[reason])}
                for reason, count in _most_first(spans).items()
            },
            "clips": {"spans": num_clips, "seconds": clip_s},
        },
    }


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
