"""Parts and shards: tars of encoded clips, written whole or not at all.

A **part** is what one task made of its videos; a **shard** is composed of clips of many parts, once
duplicates and splits are known. Both are tars with a ``.json`` that is written last.
"""

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from data_pipelines.rejects import RejectRow
from data_pipelines.rows import ClipRow, EncodedClip, PartRows, Row, VideoRow
from lafp import storage
from lafp.data.shard_format import Labels, ShardEntry, ShardWriter, Split

SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """Size of shards."""

    max_bytes: int = 128 * 2**20
    """A shard is closed before it exceeds this."""

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}.")


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Which clips one shard will hold, in order."""

    shard: str
    split: Split
    clips: tuple[ClipRow, ...]


def entry_name(tar: str) -> str:
    """Name of the file that says that a part or shard is complete."""
    return tar.removesuffix(".tar") + ".json"


def write_part(rows: Iterable[Row], work: str, part: str) -> PartRows:
    """Writes one part: the tar, then its rows.

    Args:
        rows: Of its videos, in order.
        work: Folder of the parts.
        part: File name of the tar.
    """
    videos: list[VideoRow] = []
    clips: list[ClipRow] = []
    rejects: list[RejectRow] = []
    with tempfile.TemporaryDirectory(prefix="lafp-") as folder:
        writer = ShardWriter(Path(folder) / part)
        for row in rows:
            if isinstance(row, EncodedClip):
                writer.add(row.record, row.video, row.labels)
                clips.append(_clip_row(row, writer, part))
            elif isinstance(row, VideoRow):
                videos.append(row)
            else:
                rejects.append(row)
        writer.close()
        storage.upload(writer.path, storage.join(work, part))
    result = PartRows(videos=tuple(videos), clips=tuple(clips), rejects=tuple(rejects))
    storage.write_text(storage.join(work, entry_name(part)), json.dumps(result.to_dict()))
    return result


def _clip_row(clip: EncodedClip, writer: ShardWriter, part: str) -> ClipRow:
    location = writer.clips[-1]
    return ClipRow(
        record=clip.record,
        signature=clip.signature,
        part=part,
        video_offset=location.video_offset,
        labels_offset=location.labels_offset,
        labels_bytes=location.labels_bytes,
        label_sums=clip.label_sums,
    )


def plan_shards(clips: Iterable[ClipRow], max_bytes: int) -> list[ShardPlan]:
    """Deals clips out to shards.

    Clips go in the order of their videos' ids, which are hashes: a random order, in which the
    clips of a video stay together. It depends on the clips only, not on how the work was dealt
    out.
    """
    order = sorted(clips, key=lambda clip: (clip.record.video_id, clip.record.start_s))
    plans = []
    for split in SPLITS:
        of_split = [clip for clip in order if clip.record.split == split]
        for number, group in enumerate(_groups(of_split, max_bytes)):
            name = f"{split}-{number:06d}.tar"
            plans.append(ShardPlan(shard=name, split=split, clips=tuple(group)))
    return plans


def _groups(clips: list[ClipRow], max_bytes: int) -> Iterator[list[ClipRow]]:
    group: list[ClipRow] = []
    size = 0
    for clip in clips:
        clip_bytes = clip.record.num_bytes + clip.labels_bytes
        if group and size + clip_bytes > max_bytes:
            yield group
            group, size = [], 0
        group.append(clip)
        size += clip_bytes
    if group:
        yield group


def write_shard(plan: ShardPlan, work: str, out: str) -> ShardEntry:
    """Composes one shard of clips that lie in parts: the tar, then its entry.

    Raises:
        FileNotFoundError: A part is gone.
    """
    with tempfile.TemporaryDirectory(prefix="lafp-") as folder:
        writer = ShardWriter(Path(folder) / plan.shard)
        for clip, video, labels in _read_clips(plan.clips, work):
            writer.add(clip.record, video, labels)
        writer.close()
        with writer.path.open("rb") as file:
            checksum = sha256(file.read()).hexdigest()
        entry = ShardEntry(
            shard=plan.shard,
            split=plan.split,
            num_clips=len(plan.clips),
            num_frames=sum(clip.record.num_frames for clip in plan.clips),
            num_bytes=writer.path.stat().st_size,
            sha256=checksum,
            clips=tuple(writer.clips),
        )
        storage.upload(writer.path, storage.join(out, plan.shard))
    storage.write_text(storage.join(out, entry_name(plan.shard)), entry.to_json())
    return entry


def _read_clips(
    clips: Iterable[ClipRow], work: str
) -> Iterator[tuple[ClipRow, bytes, Labels | None]]:
    """Reads clips, those that lie side by side in one part with one request."""
    for (part, _), group in itertools.groupby(clips, lambda c: (c.part, c.record.video_id)):
        run = list(group)
        start = min(clip.video_offset for clip in run)
        end = max(
            max(clip.video_offset + clip.record.num_bytes, clip.labels_offset + clip.labels_bytes)
            for clip in run
        )
        data = storage.read_bytes(storage.join(work, part), start, end - start)
        for clip in run:
            video = clip.video_offset - start
            labels = clip.labels_offset - start
            yield (
                clip,
                data[video : video + clip.record.num_bytes],
                (
                    Labels.from_bytes(data[labels : labels + clip.labels_bytes])
                    if clip.labels_bytes
                    else None
                ),
            )


def with_split(clip: ClipRow, split: Split) -> ClipRow:
    """The clip, assigned to a split."""
    return replace(clip, record=replace(clip.record, split=split))
