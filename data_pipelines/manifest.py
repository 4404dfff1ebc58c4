"""The last files of a shard set: tables, totals, and the check that nothing was lost."""

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.config import PreprocessConfig
from data_pipelines.rejects import REASONS, RejectRow
from data_pipelines.rows import ClipRow
from data_pipelines.select_clips import Selection
from data_pipelines.stages.write_shards import ShardPlan
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import ClipRecord, ShardEntry, ShardSet, Split

# Spans of one video touch exactly; this is float rounding over hours.
_TOLERANCE_S = 1e-3
_ARROW_TYPES = {
    str: pa.string(),
    Split: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


def check_accounts(selection: Selection) -> None:
    """Checks that clips and rejects cover every video without gap or overlap.

    Raises:
        RuntimeError: They do not, which is a fault of this pipeline.
    """
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for clip in selection.clips:
        spans[clip.record.video_uri].append((clip.record.start_s, clip.record.end_s))
    for row in selection.rejects:
        spans[row.video_uri].append((row.start_s, row.end_s))
    for video in selection.videos:
        covered_s = 0.0
        for start_s, end_s in sorted(spans[video.uri]):
            if abs(start_s - covered_s) > _TOLERANCE_S:
                raise RuntimeError(
                    f"{video.uri}: clips and rejects cover it up to {covered_s:.3f} s and go on "
                    f"at {start_s:.3f} s. Please report this."
                )
            covered_s = end_s
        if not spans[video.uri] or abs(covered_s - video.duration_s) > _TOLERANCE_S:
            raise RuntimeError(
                f"{video.uri}: clips and rejects cover {covered_s:.3f} s of its "
                f"{video.duration_s:.3f} s. Please report this."
            )


def write_tables(
    uri: str,
    selection: Selection,
    plans: Sequence[ShardPlan],
    entries: Sequence[ShardEntry],
) -> None:
    """Writes ``clips.parquet``, ``rejects.parquet`` and ``manifest.parquet``."""
    clips = [asdict(clip.record) | {"shard": plan.shard} for plan in plans for clip in plan.clips]
    _write_table(storage.join(uri, "clips.parquet"), ClipRecord, clips, {"shard": pa.string()})
    rejects = sorted(selection.rejects, key=lambda row: (row.video_uri, row.start_s))
    _write_table(storage.join(uri, "rejects.parquet"), RejectRow, [asdict(r) for r in rejects])
    shards = [{k: v for k, v in asdict(entry).items() if k != "clips"} for entry in entries]
    _write_table(storage.join(uri, "manifest.parquet"), ShardEntry, shards)


def _write_table(
    uri: str, row: type, rows: list[dict[str, Any]], more: dict[str, pa.DataType] | None = None
) -> None:
    """Writes rows with the columns of their dataclass, so that an empty table has them too."""
    columns = {f.name: _ARROW_TYPES[f.type] for f in fields(row) if f.type in _ARROW_TYPES}
    schema = pa.schema(list((columns | (more or {})).items()))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
    storage.write_bytes(uri, buffer.getvalue())


def shard_set(selection: Selection, cfg: PreprocessConfig) -> ShardSet:
    """What is true of every clip of the set.

    Raises:
        ConfigError: There is no clip, or labeled clips have actions of different kinds.
    """
    records = [clip.record for clip in selection.clips]
    if not records:
        spans = Counter(row.reason for row in selection.rejects)
        raise ConfigError(f"No clips in {cfg.source}. {reasons_in_words(spans)}")
    rates = {record.fps for record in records}
    frames: Counter[str] = Counter()
    for record in records:
        frames[record.split] += record.num_frames
    lengths = [record.num_frames for record in records]
    return ShardSet(
        source=cfg.name,
        width_px=cfg.resize.width_px,
        height_px=cfg.resize.height_px,
        fps=rates.pop() if len(rates) == 1 else None,
        num_clips=dict(sorted(Counter(record.split for record in records).items())),
        num_frames=dict(sorted(frames.items())),
        num_hours=sum(record.end_s - record.start_s for record in records) / 3600,
        min_clip_frames=min(lengths),
        max_clip_frames=max(lengths),
        action=_action(selection.clips) if cfg.labels is not None else None,
    )


def _action(clips: Sequence[ClipRow]) -> dict[str, Any]:
    """Fields of ``ActionSpec`` over all clips; mean and std over the training clips' pairs."""
    every = [clip.label_sums for clip in clips if clip.label_sums is not None]
    if len(kinds := {(len(sums.total), sums.num_choices > 0) for sums in every}) > 1:
        raise ConfigError(f"Clips have actions of different kinds: {sorted(kinds)} dimensions.")
    train = [
        clip.label_sums
        for clip in clips
        if clip.label_sums is not None and clip.record.split == "train"
    ] or every
    if every[0].num_choices:
        return {
            "dim": max(sums.num_choices for sums in every),
            "is_discrete": True,
            "low": [],
            "high": [],
        }
    bounds = every if all(sums.is_bounded for sums in every) else train
    num_rows = sum(sums.num_rows for sums in train)
    mean = np.sum([sums.total for sums in train], axis=0) / num_rows
    mean_square = np.sum([sums.total_squares for sums in train], axis=0) / num_rows
    return {
        "dim": len(mean),
        "is_discrete": False,
        "low": np.min([sums.low for sums in bounds], axis=0).tolist(),
        "high": np.max([sums.high for sums in bounds], axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(mean_square - mean**2, 0)).tolist(),
    }


def summarize(
    selection: Selection, spec: ShardSet, entries: Sequence[ShardEntry]
) -> dict[str, Any]:
    """The stage's summary: totals, and the funnel from inputs through each reject to clips."""
    clip_s = sum(clip.record.end_s - clip.record.start_s for clip in selection.clips)
    spans: Counter[str] = Counter(row.reason for row in selection.rejects)
    seconds: defaultdict[str, float] = defaultdict(float)
    for row in selection.rejects:
        seconds[row.reason] += row.end_s - row.start_s
    return {
        "num_videos": len(selection.videos),
        "num_videos_with_clips": len({clip.record.video_uri for clip in selection.clips}),
        "num_clips": len(selection.clips),
        "num_val_clips": spec.num_clips.get("val", 0),
        "num_frames": sum(spec.num_frames.values()),
        "num_shards": len(entries),
        "num_bytes": sum(entry.num_bytes for entry in entries),
        "hours_in": sum(video.duration_s for video in selection.videos) / 3600,
        "hours_out": clip_s / 3600,
        "num_rejects": len(selection.rejects),
        "funnel": {
            "inputs": {
                "videos": len(selection.videos),
                "seconds": sum(video.duration_s for video in selection.videos),
            },
            "rejects": {
                reason: {"spans": spans[reason], "seconds": seconds[reason]}
                for reason, _ in spans.most_common()
            },
            "clips": {"spans": len(selection.clips), "seconds": clip_s},
        },
    }


def reasons_in_words(spans: Counter[str]) -> str:
    """The most frequent reasons of rejects, for a message."""
    listed = "; ".join(
        f"{num} {reason} ({REASONS[reason]})" for reason, num in spans.most_common(4)
    )
    return f"Rejects: {listed}." if listed else ""
