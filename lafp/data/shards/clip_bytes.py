"""Reads a clip's bytes from its shard, and checks that they are those that were written."""

import zlib
from functools import partial

from lafp import storage
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import ClipLocation

_MOST_BETWEEN = 4096
"""Bytes between a clip's members that are read rather than jumped over."""


def checked_bytes(shard: str, location: ClipLocation) -> tuple[bytes, bytes]:
    """Reads a clip's video and labels and checks their bytes.

    Raises:
        DamagedClipError: The bytes are not those that were written.
        StorageError: Storage does not answer.
    """
    damaged = partial(DamagedClipError, location.clip_id, shard)
    if min(location.video_offset, location.video_bytes, location.labels_offset) < 0 or (
        location.labels_bytes < 0
    ):
        raise damaged("truncated", "its entry says that it begins before the file does")
    try:
        video, labels = _both_members(shard, location)
    except FileNotFoundError as error:
        raise damaged("missing", "the file does not exist") from error
    if len(video) + len(labels) < location.video_bytes + location.labels_bytes:
        raise damaged("truncated", "the file ends before the clip does")
    if location.crc32 not in (None, zlib.crc32(labels, zlib.crc32(video))):
        raise damaged("checksum", "its bytes have changed since they were written")
    return video, labels


def _both_members(shard: str, location: ClipLocation) -> tuple[bytes, bytes]:
    """Reads a clip's video and labels, in one request where only a tar header lies between."""
    first, num_bytes = location.video_offset, location.video_bytes
    if not location.labels_bytes:
        return storage.read_bytes(shard, first, num_bytes), b""
    labels_at = location.labels_offset - first
    if num_bytes <= labels_at <= num_bytes + _MOST_BETWEEN:
        data = storage.read_bytes(shard, first, labels_at + location.labels_bytes)
        return data[:num_bytes], data[labels_at:]
    labels = storage.read_bytes(shard, location.labels_offset, location.labels_bytes)
    return storage.read_bytes(shard, first, num_bytes), labels
