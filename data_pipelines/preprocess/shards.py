"""Writes parts and shards: tars of encoded clips that are complete or absent.

A **part** holds the clips that one task made of its videos. A **shard** is composed of clips of
many parts, once duplicates and splits are known. Each is a tar with a ``.json`` that is written
last.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import file_digest
from operator import itemgetter
from pathlib import Path

import numpy as np

from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.rejects import EXPIRED, RejectRow
from data_pipelines.preprocess.rows import (
    ClipRow,
    EncodedClip,
    ItemRows,
    LeftOut,
    LongVideo,
    Row,
    VideoRow,
)
from data_pipelines.preprocess.select.signatures import write_shard_signatures, write_signatures
from lafp import storage
from lafp.config.ranges import check_at_least
from lafp.data.packing import packed
from lafp.data.shards.format import (
    Labels,
    ShardEntry,
    ShardWriter,
    Split,
    entry_name,
    signatures_name,
)
from lafp.data.shards.sets import read_entry
from lafp.storage import strict_json
from lafp.storage.temporary import TemporaryFolder


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """Limits the size of shards."""

    # A shard holds about 6 hours of 64 x 64 video, so a corpus of 100,000 hours has a manifest of
    # 16 thousand rows (docs/scaling.md).
    max_bytes: int = 128 * 2**20
    """A shard is closed before it grows beyond this. A larger clip gets a shard of its own."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "max_bytes")


@dataclass(frozen=True, kw_only=True)
class ShardLayout:
    """Says which rows of the tables of kept clips make a shard, in order."""

    shard: str
    split: Split
    spans: tuple[tuple[int, int, int], ...]
    """Number of a table, its first row that counts, and the number of rows."""


_OF_A_SHARD = re.compile(r"((?:train|val)-\d{6,})(?:\.tar|\.json|\.signatures\.parquet)")
EXPIRED_SUFFIX = ".expired.json"
"""Ends the name of the file beside a part whose rejects a resumed job tries once more."""


def write_part(inputs: Iterable[Iterable[Row]], work: str, part: str) -> list[ItemRows]:
    """Writes one part: the tar, then its rows.

    Args:
        inputs: The rows of each input, in order.
        work: Folder of the parts.
        part: Path of the tar in ``work``.
    """
    items = []
    with TemporaryFolder() as folder:
        writer = ShardWriter(Path(folder) / "part.tar")
        signatures: dict[int, bytes] = {}
        for rows in inputs:
            items.append(_write_item(rows, writer, part, signatures))
        writer.close()
        storage.upload(writer.path, storage.join(work, part))
    if signatures:
        write_signatures(work, part, signatures)
    num_pieces = {
        index: len(item.long_video.spans_s)
        for index, item in enumerate(items)
        if item.long_video is not None
    }
    if num_pieces:
        # Written before the part's entry: a complete part with long videos always names their
        # pieces.
        strict_json.write(storage.join(work, long_videos_name(part)), num_pieces)
    if num_expired := sum(row.reason == EXPIRED for item in items for row in item.rejects):
        mark = part.removesuffix(".tar") + EXPIRED_SUFFIX
        strict_json.write(storage.join(work, mark), num_expired)
    strict_json.write(storage.join(work, entry_name(part)), items)
    return items


def read_part(work: str, part: str) -> list[ItemRows]:
    """Reads the rows of a complete part; rows of long videos come from the parts of their pieces.

    Args:
        work: Folder of the parts.
        part: Path of the part in ``work``, without suffix.
    """
    items = strict_json.read(list[ItemRows], storage.join(work, entry_name(part)))
    return [
        _joined(item.long_video, work, part, index) if item.long_video is not None else item
        for index, item in enumerate(items)
    ]


def piece_part(part: str, index: int, piece: int) -> str:
    """Returns the path, without suffix, of the part for one piece of a long video."""
    return f"{part}-{index:04d}-{piece:04d}"


def read_long_videos(work: str, part: str) -> dict[int, int]:
    """Reads the number of pieces of each long video of a part, by the input's index."""
    return strict_json.read(dict[int, int], storage.join(work, long_videos_name(part)))


def long_videos_name(part: str) -> str:
    """Names the file beside a part's entry that holds the number of pieces of its long videos."""
    return f"{part.removesuffix('.tar')}.long.json"


def _joined(long_video: LongVideo, work: str, part: str, index: int) -> ItemRows:
    clips: list[ClipRow] = []
    rejects: list[RejectRow] = []
    for piece, (start_s, end_s) in enumerate(long_video.spans_s):
        (rows,) = read_part(work, piece_part(part, index, piece))
        if rows.videos[0].span_s is not None:
            clips += rows.clips
            rejects += rows.rejects
        else:  # the piece's task could not open the file
            why = rows.rejects[0]
            uri = long_video.video.uri
            rejects.append(replace(why, video_uri=uri, start_s=start_s, end_s=end_s))
    return ItemRows(videos=(long_video.video,), clips=tuple(clips), rejects=tuple(rejects))


def _write_item(
    rows: Iterable[Row], writer: ShardWriter, part: str, signatures: dict[int, bytes]
) -> ItemRows:
    videos: dict[int, _VideoRows] = {}
    files = FileCounts()
    for row in rows:
        if isinstance(row, VideoRow):
            # Earlier clips of the same place stay in the tar, but no row points to them.
            video = videos[row.place] = _VideoRows(row)
        elif isinstance(row, EncodedClip):
            writer.add(row.record, row.video, row.labels)
            clip = _clip_row(row, writer, part)
            video.clips.append(clip)
            if row.signature:
                signatures[clip.video_offset] = bytes.fromhex(row.signature)
        elif isinstance(row, RejectRow):
            video.rejects.append(row)
        elif isinstance(row, LeftOut):
            files.leave_out(row)
        elif isinstance(row, LongVideo):
            return ItemRows(long_video=row)
    return ItemRows(
        videos=tuple(video.row for video in videos.values()),
        clips=tuple(clip for video in videos.values() for clip in video.clips),
        rejects=tuple(reject for video in videos.values() for reject in video.rejects),
        left_out=files.kinds(),
    )


@dataclass
class _VideoRows:
    row: VideoRow
    clips: list[ClipRow] = field(default_factory=list)
    rejects: list[RejectRow] = field(default_factory=list)


def _clip_row(clip: EncodedClip, writer: ShardWriter, part: str) -> ClipRow:
    location = writer.clips[-1]
    return ClipRow(
        record=clip.record,
        part=part,
        video_offset=location.video_offset,
        labels_offset=location.labels_offset,
        labels_bytes=location.labels_bytes,
        label_sums=clip.label_sums,
    )


def lay_out_shards(
    sizes: Iterable[tuple[Split, int, np.ndarray]], max_bytes: int
) -> Iterator[ShardLayout]:
    """Divides clips among shards, with the sizes of one table in memory at a time.

    Args:
        sizes: For each table of kept clips, in order: its split, its number, and the bytes of its
            clips, int64 [N]. The tables of a split follow each other.
        max_bytes: See ``ShardsConfig``.
    """
    for split, tables in itertools.groupby(sizes, key=itemgetter(0)):
        clips = (
            (table, row, num_bytes)
            for _, table, of_clips in tables
            for row, num_bytes in enumerate(of_clips.tolist())
        )
        for number, group in enumerate(packed(clips, itemgetter(2), max_bytes)):
            rows = {t: list(of) for t, of in itertools.groupby(group, key=itemgetter(0))}
            spans = tuple((table, of[0][1], len(of)) for table, of in rows.items())
            yield ShardLayout(shard=f"{split}-{number:06d}.tar", split=split, spans=spans)


def is_made(shard: str, clips: Sequence[ClipRow], out: str) -> bool:
    """Tells whether a shard is complete. An entry of a shard of other clips is deleted.

    A takedown after the job was killed, which the resumed job obeys, moves clips between shards. So
    do parts that are made again because addresses had expired.
    """
    try:
        entry = read_entry(out, shard)
    except FileNotFoundError:
        return False
    if [clip.clip_id for clip in entry.clips] == [clip.record.clip_id for clip in clips]:
        return True
    # Deleted before the tar is replaced, because an entry says that its tar is complete.
    storage.delete(storage.join(out, entry_name(shard)))
    return False


def delete_other_shards(out: str, shards: Iterable[str]) -> None:
    """Deletes the files of shards that an earlier run has begun and this one has no clips for."""
    known = set(shards)
    for info in storage.list_files(out):
        name = info.uri.rpartition("/")[2]
        found = _OF_A_SHARD.fullmatch(name)
        if found and f"{found[1]}.tar" not in known:
            storage.delete(info.uri)


def write_shard(
    shard: str,
    split: Split,
    clips: Sequence[ClipRow],
    work: str,
    out: str,
    has_signatures: bool = False,
) -> ShardEntry:
    """Composes one shard from clips in parts: writes the tar, then its entry.

    Args:
        shard: Name of its tar.
        split: Its split.
        clips: Its clips, in order.
        work: Folder of the parts.
        out: Folder of the shard set.
        has_signatures: Whether the clips have signatures, which are then stored beside the shard.

    Raises:
        FileNotFoundError: A part is missing.
    """
    with TemporaryFolder() as folder:
        writer = ShardWriter(Path(folder) / shard)
        for clip, video, labels in _read_clips(clips, work):
            writer.add(clip.record, video, labels)
        writer.close()
        with writer.path.open("rb") as file:
            checksum = file_digest(file, "sha256").hexdigest()
        entry = ShardEntry(
            shard=shard,
            split=split,
            num_clips=len(clips),
            num_frames=sum(clip.record.num_frames for clip in clips),
            num_bytes=writer.path.stat().st_size,
            sha256=checksum,
            clips=tuple(writer.clips),
        )
        # The tar comes first and its entry last, because the entry says that the shard is complete.
        storage.upload(writer.path, storage.join(out, shard))
    if has_signatures:
        uri = storage.join(out, signatures_name(shard))
        write_shard_signatures(uri, clips, work)
    strict_json.write(storage.join(out, entry_name(shard)), entry)
    return entry


def _read_clips(
    clips: Iterable[ClipRow], work: str
) -> Iterator[tuple[ClipRow, bytes, Labels | None]]:
    """Reads clips; one request reads all neighbouring clips of a video in one part."""
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
