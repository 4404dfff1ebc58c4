"""Writes the tables and totals of a shard set, and checks that nothing was lost."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from data_pipelines.preprocess.action_statistics import ActionStatistics
from data_pipelines.preprocess.clip.labels.read import ASSUMED_FPS
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.faults import TOLERANCE_S, uneven
from data_pipelines.preprocess.file_counts import FileTable
from data_pipelines.preprocess.rejects import RejectCounts, RejectRow
from data_pipelines.preprocess.rows import ItemRows
from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.shards import ShardLayout
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import ClipRecord, ShardEntry, ShardSet
from lafp.data.shards.sets import read_entry
from lafp.storage.map_ahead import map_ahead
from lafp.storage.tables import open_table, write_rows


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


def write_rejects(uri: str, rejects: Iterable[RejectRow]) -> None:
    """Writes ``rejects.parquet``."""
    write_rows(storage.join(uri, "rejects.parquet"), RejectRow, rejects)


@contextmanager
def clips_table(uri: str, layouts: Iterable[ShardLayout]) -> Iterator[Iterable[ShardLayout]]:
    """Passes shard layouts on and writes their clips to ``clips.parquet`` on the way."""
    with open_table(storage.join(uri, "clips.parquet"), ClipRecord, {"shard": str}) as table:

        def recorded() -> Iterator[ShardLayout]:
            for layout in layouts:
                for clip in layout.clips:
                    table.add(vars(clip.record) | {"shard": layout.shard})
                yield layout

        yield recorded()


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


def shard_set(catalog: Catalog, cfg: PreprocessConfig) -> ShardSet:
    """Describes the whole set: size and rate of frames, counts per split, and action statistics.

    Raises:
        ConfigError: There is no clip.
    """
    query = (
        "SELECT split, count(*), sum(num_frames), min(num_frames), max(num_frames), min(fps), "
        "max(fps), sum(end_s - start_s), sum(has_mask) FROM clips WHERE original IS NULL "
        "GROUP BY split ORDER BY split"
    )
    rows = catalog.db.execute(query).fetchall()
    if not rows:
        rejects = RejectCounts()
        rejects.add(catalog.rejects())
        raise ConfigError(
            f"No clips in {cfg.source}, because every video was rejected. {rejects.in_words()} "
            "Name another source, or loosen what rejects these."
        )
    splits, counts, frames, shortest, longest, slowest, fastest, seconds, masked = zip(
        *rows, strict=True
    )
    if cfg.masks is not None and not sum(masked):
        raise ConfigError(
            f"masks: no video of {cfg.source} has masks in {cfg.masks.source}. The masks of "
            "SOURCE/a/b.mp4 must be MASKS/a/b.mp4, or pictures in MASKS/a/b/."
        )
    optical_flow = cfg.optical_flow
    return ShardSet(
        source=cfg.name,
        width_px=cfg.resize.width_px,
        height_px=cfg.resize.height_px,
        fps=min(slowest) if min(slowest) == max(fastest) else None,
        num_clips=dict(zip(splits, counts, strict=True)),
        num_frames=dict(zip(splits, frames, strict=True)),
        num_hours=sum(seconds) / 3600,
        min_clip_frames=min(shortest),
        max_clip_frames=max(longest),
        num_masked_clips={s: num for s, num in zip(splits, masked, strict=True) if num},
        has_signatures=cfg.filters.drop_duplicates,
        action=_action(catalog) if cfg.labels is not None else None,
        optical_flow_size_px=(
            [optical_flow.height_px, optical_flow.width_px] if optical_flow else None
        ),
    )


def _action(catalog: Catalog) -> dict[str, object]:
    """Returns the fields of ``ActionSpec``: bounds of all clips, statistics of training pairs."""
    every, train = ActionStatistics(), ActionStatistics()
    for clip in catalog.kept_clips():
        if (sums := clip.label_sums) is None:
            continue
        every.add(sums)
        if clip.record.split == "train":
            train.add(sums)
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
    catalog: Catalog, spec: ShardSet, files: FileTable, num_shards: int, num_bytes: int
) -> dict[str, object]:
    """Builds the stage's summary: totals, and the funnel from inputs over rejects to clips."""
    in_s = catalog.value("SELECT total(duration_s) FROM videos")
    clip_s = 3600 * spec.num_hours
    by_reason = catalog.db.execute(
        "SELECT reason, count(*), total(end_s - start_s) FROM rejects GROUP BY reason "
        "ORDER BY count(*) DESC, reason"
    ).fetchall()
    num_clips = sum(spec.num_clips.values())
    return {
        "num_videos": catalog.num_videos,
        "num_videos_with_clips": catalog.value(
            "SELECT count(DISTINCT video) FROM clips WHERE original IS NULL"
        ),
        "num_clips": num_clips,
        "num_val_clips": spec.num_clips.get("val", 0),
        "num_masked_clips": sum(spec.num_masked_clips.values()),
        "num_frames": sum(spec.num_frames.values()),
        "num_shards": num_shards,
        "num_bytes": num_bytes,
        "hours_in": in_s / 3600,
        "hours_out": clip_s / 3600,
        "num_rejects": sum(spans for _, spans, _ in by_reason),
        "assumed": _assumed(catalog),
        "decoder_fallbacks": _decoder_fallbacks(catalog),
        "files": files,
        "funnel": {
            "inputs": {"videos": catalog.num_videos, "seconds": in_s},
            "rejects": {
                reason: {"spans": spans, "seconds": seconds} for reason, spans, seconds in by_reason
            },
            "clips": {"spans": num_clips, "seconds": clip_s},
        },
    }


def _decoder_fallbacks(catalog: Catalog) -> dict[str, int]:
    """Counts the videos that were decoded on another device than asked for, by reason."""
    query = (
        "SELECT decoder_fallback, count(*) FROM videos WHERE decoder_fallback != '' GROUP BY 1 "
        "ORDER BY 2 DESC, 1"
    )
    return dict(catalog.db.execute(query).fetchall())


def _assumed(catalog: Catalog) -> dict[str, object]:
    """Returns the defaults that stand in for missing data, and how many videos they affect."""
    num_videos = catalog.value(
        "SELECT count(*) FROM videos WHERE is_rate_assumed AND video IN "
        "(SELECT video FROM clips WHERE original IS NULL)"
    )
    return {"labels.fps": {"value": ASSUMED_FPS, "videos": num_videos}} if num_videos else {}
