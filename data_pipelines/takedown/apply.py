"""Carries out the steps of a takedown. A step that is already done is skipped.

At any moment a reader of shards sees the set either with the video or without it: shards are
rewritten under new names, then ``manifest.parquet``, which names the shards, is replaced, then the
table of clips, then the old shards are deleted. Who chooses clips by the table of clips meanwhile
gets an error.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.latent_tables import write_tables
from data_pipelines.preprocess.manifest import write_manifest
from data_pipelines.preprocess.taken_down import REASON, Takedown
from data_pipelines.takedown.journal import Journal, journal_uri
from data_pipelines.takedown.statistics import action_after
from lafp import storage
from lafp.data.shards.clip_tables import clip_files, clip_rows
from lafp.data.shards.edit import drop_clips, drop_latents
from lafp.data.shards.format import (
    ShardSet,
    entry_name,
    latents_name,
    signatures_name,
)
from lafp.data.shards.sets import open_shard_set, read_entry, read_manifest, shards_sha256
from lafp.data.stored_latents import SET_FILE, LatentSet, LatentShard
from lafp.runs.run_dir import StageDir
from lafp.storage import strict_json
from lafp.storage.tables import iter_rows, read_table, rewrite_table, write_table
from lafp.storage.temporary import TemporaryFolder

_SUMMARIES = ("totals.json", "summary.json")


def apply(shards: str, journal: Journal) -> None:
    """Carries out the journal of a shard set from where it was interrupted, then deletes it.

    The takedown is recorded already.

    Raises:
        StorageError: Reading or writing failed.
    """
    clip_ids, renamed = set(journal.clip_ids), journal.shards
    latents = [uri for uri in journal.latents if storage.exists(uri)]
    for old, new in renamed.items():
        if new is not None:
            _rewrite_shard(shards, old, new, clip_ids)
            for uri in latents:
                _rewrite_latents(uri, old, new, clip_ids)
    names = _names_after(shards, renamed)
    num_shards, num_bytes = write_manifest(shards, names)  # now readers no longer see the video
    _rewrite_clips(shards, clip_ids, renamed)
    _rewrite_rejects(shards, clip_ids, journal.takedown)
    spec = _spec_after(shards, names)
    strict_json.write(storage.join(shards, "shard_set.json"), spec, indent=1)
    totals = {"num_shards": num_shards, "num_bytes": num_bytes}
    for uri in (storage.join(shards, name) for name in _SUMMARIES):
        if storage.is_file(uri):
            summary = _summary_after(shards, spec, strict_json.read(dict[str, Any], uri))
            strict_json.write(uri, summary | totals, indent=1)
    for uri in latents:
        _finish_latents(uri, shards, names, journal.shards_sha256)
    # Old files go last: until now a reader may still use the old manifest.
    for old in renamed:
        for uri in (shards, *latents):
            for name in (str, signatures_name, latents_name, entry_name):
                storage.delete(storage.join(uri, name(old)))
    storage.delete(journal_uri(shards))


def _rewrite_shard(shards: str, old: str, new: str, clip_ids: set[str]) -> None:
    # The entry is written last, so the shard was rewritten before an interruption.
    if storage.is_file(storage.join(shards, entry_name(new))):
        return
    with (
        storage.local_file(storage.join(shards, old)) as tar,
        TemporaryFolder() as folder,
    ):
        entry = drop_clips(tar, read_entry(shards, old), clip_ids, new, Path(folder) / new)
        storage.upload(Path(folder) / new, storage.join(shards, new))
    if open_shard_set(shards).has_signatures:
        signatures = read_table(storage.join(shards, signatures_name(old)))
        is_gone = pc.is_in(signatures["clip_id"], pa.array(sorted(clip_ids), pa.string()))
        left = signatures.filter(pc.invert(is_gone)).combine_chunks()
        write_table(storage.join(shards, signatures_name(new)), left)
    strict_json.write(storage.join(shards, entry_name(new)), entry)


def _rewrite_latents(uri: str, old: str, new: str, clip_ids: set[str]) -> None:
    source = storage.join(uri, entry_name(old))
    if not storage.is_file(source) or storage.is_file(storage.join(uri, entry_name(new))):
        return
    entry = strict_json.read(LatentShard, source)
    data = storage.read_bytes(storage.join(uri, entry.file))
    data, entry = drop_latents(data, entry, clip_ids, new)
    storage.write_bytes(storage.join(uri, entry.file), data)
    strict_json.write(storage.join(uri, entry_name(new)), entry)


def _names_after(shards: str, renamed: Mapping[str, str | None]) -> list[str]:
    names = read_manifest(shards, ["shard"])["shard"].to_pylist()
    found = (renamed.get(name, name) for name in names)
    return [name for name in found if name is not None]


def _rewrite_clips(shards: str, clip_ids: set[str], renamed: Mapping[str, str | None]) -> None:
    removed = pa.array(sorted(clip_ids), pa.string())

    def keep(batch: pa.RecordBatch) -> pa.RecordBatch:
        batch = batch.filter(pc.invert(pc.is_in(batch["clip_id"], removed)))
        names = [renamed.get(name, name) for name in batch["shard"].to_pylist()]
        column = batch.schema.get_field_index("shard")
        return batch.set_column(column, batch.schema.field(column), pa.array(names, pa.string()))

    for file in clip_files(shards):
        # A clip is taken out of a shard, which so gets another name. Most files have no such shard.
        names = read_table(file, ["shard"])["shard"].unique().to_pylist()
        if not renamed.keys().isdisjoint(names):
            rewrite_table(file, keep)


def _rewrite_rejects(shards: str, clip_ids: set[str], takedown: Takedown) -> None:
    gone = pa.array(takedown.video_uris, pa.string())
    originals = pa.array(sorted(clip_ids), pa.string())

    def keep(batch: pa.RecordBatch) -> pa.RecordBatch:
        is_duplicate = pc.is_in(batch["original_clip_id"], originals)
        return batch.filter(pc.invert(pc.or_(pc.is_in(batch["video_uri"], gone), is_duplicate)))

    rewrite_table(storage.join(shards, "rejects.parquet"), keep)


def _spec_after(shards: str, names: Sequence[str]) -> ShardSet:
    """Describes the clips that are left, for ``shard_set.json``."""
    clips: Counter[str] = Counter()
    masked: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    seconds, lengths = 0.0, set()
    columns = ["split", "num_frames", "start_s", "end_s", "has_mask"]
    for row in clip_rows(shards, columns):
        clips[row["split"]] += 1
        masked[row["split"]] += row["has_mask"]
        frames[row["split"]] += row["num_frames"]
        seconds += row["end_s"] - row["start_s"]
        lengths.add(row["num_frames"])
    spec = open_shard_set(shards)
    return replace(
        spec,
        action=action_after(shards, (read_entry(shards, name) for name in names), spec.action),
        num_clips=dict(sorted(clips.items())),
        num_frames=dict(sorted(frames.items())),
        num_masked_clips={split: num for split, num in sorted(masked.items()) if num},
        num_hours=seconds / 3600,
        min_clip_frames=min(lengths, default=0),
        max_clip_frames=max(lengths, default=0),
    )


def _summary_after(shards: str, spec: ShardSet, summary: dict[str, Any]) -> dict[str, Any]:
    """Recomputes what a summary says of clips and rejects from the tables.

    Spans of the inputs that are in no table any more count as taken down.
    """
    funnel = summary["funnel"]
    num_clips, clip_s = sum(spec.num_clips.values()), 3600 * spec.num_hours
    spans, seconds = Counter[str](), defaultdict[str, float](float)
    for row in iter_rows(storage.join(shards, "rejects.parquet"), ["reason", "start_s", "end_s"]):
        spans[row["reason"]] += 1
        seconds[row["reason"]] += row["end_s"] - row["start_s"]
    num_rejects = spans.total()
    earlier = [funnel["clips"], *funnel["rejects"].values()]
    spans[REASON] = seconds[REASON] = 0
    spans[REASON] = sum(outcome["spans"] for outcome in earlier) - num_clips - spans.total()
    seconds[REASON] = max(0.0, funnel["inputs"]["seconds"] - clip_s - sum(seconds.values()))
    # The clips of a video lie side by side.
    videos = groupby(clip_rows(shards, ["video_uri"]))
    return summary | {
        "num_videos_with_clips": sum(1 for _ in videos),
        "num_clips": num_clips,
        "num_val_clips": spec.num_clips.get("val", 0),
        "num_masked_clips": sum(spec.num_masked_clips.values()),
        "num_frames": sum(spec.num_frames.values()),
        "num_rejects": num_rejects,
        "hours_out": spec.num_hours,
        "funnel": funnel
        | {
            "rejects": {r: {"spans": spans[r], "seconds": seconds[r]} for r in spans},
            "clips": {"spans": num_clips, "seconds": clip_s},
        },
    }


def _finish_latents(uri: str, shards: str, names: Sequence[str], old_sha256: str) -> None:
    """Updates the tables and checksums of a latent set; deletes one that is unfinished or empty."""
    set_uri = storage.join(uri, SET_FILE)
    if not storage.is_file(set_uri) or not names:
        storage.delete_folder(uri)
        return
    spec, sha256 = strict_json.read(LatentSet, set_uri), shards_sha256(shards)
    spec = replace(spec, shards_sha256=sha256, **write_tables(uri, sorted(names)))
    strict_json.write(set_uri, spec, indent=1)
    stage = StageDir(uri, "latents")
    # Latents of the clips that are left are still right. The new hash says that they belong to
    # these shards, so nothing is computed again.
    stage.replace_input(old_sha256, sha256)
    if stage.is_complete():
        stage.finish(stage.summary() | vars(spec))
