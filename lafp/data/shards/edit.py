"""Rewrites a shard, or the latents of a shard, without some of its clips."""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

import numpy as np

from lafp.data.shards.format import ClipLocation, ShardEntry, latents_name
from lafp.data.stored_latents import ClipLatents, LatentShard

_CHUNK_BYTES = 2**20


def drop_clips(
    tar: Path, entry: ShardEntry, clip_ids: Set[str], shard: str, out: Path
) -> ShardEntry:
    """Copies the kept clips of a shard byte by byte, as if it had been written with them only.

    Args:
        tar: The local shard.
        entry: The entry of the shard.
        clip_ids: Clips to leave out. At least one clip must be kept.
        shard: Name of the new shard.
        out: Path of the new shard.

    Returns:
        The entry of the new shard.
    """
    num_dropped_bytes = 0
    shift: dict[str, int] = {}
    with tar.open("rb") as source, out.open("w+b") as copy:
        for clip_id, start, end in _spans(tar):
            if clip_id in clip_ids:
                num_dropped_bytes += end - start
                continue
            shift[clip_id] = num_dropped_bytes
            source.seek(start)
            for at in range(start, end, _CHUNK_BYTES):
                copy.write(source.read(min(_CHUNK_BYTES, end - at)))
        end = copy.tell() + 2 * tarfile.BLOCKSIZE
        copy.truncate(-(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE)  # zeros end a tar
        copy.seek(0)
        sha256 = hashlib.file_digest(copy, "sha256").hexdigest()
    clips = tuple(
        _moved(clip, shift[clip.clip_id]) for clip in entry.clips if clip.clip_id not in clip_ids
    )
    return replace(
        entry,
        shard=shard,
        num_clips=len(clips),
        num_frames=sum(clip.num_frames for clip in clips),
        num_bytes=out.stat().st_size,
        sha256=sha256,
        clips=clips,
    )


def _spans(tar: Path) -> Iterator[tuple[str, int, int]]:
    """Yields clip id, first byte and end of each member."""
    with tarfile.open(tar) as members:
        for member in members:
            data_bytes = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            clip_id = member.name.partition(".")[0]
            # ``offset`` is where the first header begins: a long name has one of its own before it.
            yield clip_id, member.offset, member.offset_data + data_bytes


def _moved(clip: ClipLocation, num_bytes: int) -> ClipLocation:
    return replace(
        clip,
        video_offset=clip.video_offset - num_bytes,
        labels_offset=clip.labels_offset - num_bytes if clip.labels_bytes else 0,
    )


def drop_latents(
    data: bytes, entry: LatentShard, clip_ids: Set[str], shard: str
) -> tuple[bytes, LatentShard]:
    """Removes clips from the latents of a shard. Returns the new file's bytes and its entry."""
    rows = np.load(io.BytesIO(data), allow_pickle=False)
    kept, clips, first_row = [rows[:0]], [], 0
    for clip in entry.clips:
        if clip.clip_id not in clip_ids:
            kept.append(rows[clip.first_row : clip.first_row + clip.num_pairs])
            clips.append(ClipLatents(**vars(clip) | {"first_row": first_row}))
            first_row += clip.num_pairs
    # The header is written apart, because the entry must say where the rows begin: readers fetch
    # them by ranges of bytes.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": rows.dtype.str, "fortran_order": False, "shape": (first_row, *rows.shape[1:])},
    )
    made = header.getvalue() + np.concatenate(kept).tobytes()
    rejects = tuple(
        replace(row, shard=shard) for row in entry.rejects if row.clip_id not in clip_ids
    )
    return made, replace(
        entry,
        shard=shard,
        file=latents_name(shard),
        data_offset=len(header.getvalue()),
        num_bytes=len(made),
        sha256=hashlib.sha256(made).hexdigest(),
        clips=tuple(clips),
        rejects=rejects,
    )
