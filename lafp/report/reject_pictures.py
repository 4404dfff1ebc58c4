"""Pictures of rejected spans, decoded from their sources where those are still there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.clip_tables import rows_of_clips
from lafp.data.shards.sets import read_shard_entry
from lafp.evaluate import images
from lafp.runs.run_dir import StageDir
from lafp.storage import StorageError
from lafp.video import decode_clip
from lafp.video.stills import Still, read_stills

SIDE_PX = 96
MAX_SOURCE_BYTES = 64 * 2**20
"""Larger sources are not fetched from S3 for a picture."""
BUDGET_S = 60.0

Reject = Mapping[str, Any]


def reject_pictures(rejects: Sequence[Reject], side_px: int = SIDE_PX) -> dict[int, np.ndarray]:
    """Decodes the middle frame of each rejected span whose video can be reached.

    Args:
        rejects: Rows of ``rejects.parquet``.
        side_px: Longer side of the pictures. Smaller videos are not enlarged.

    Returns:
        Index of the reject -> uint8 [H, W, 3].
    """
    with ExitStack() as stack:
        wanted: dict[int, Still] = {}
        for index, reject in enumerate(rejects):
            if path := _local_path(reject, stack):
                middle_s = (reject["start_s"] + reject["end_s"]) / 2
                wanted[index] = Still(path=path, time_s=middle_s, side_px=side_px)
        found = read_stills(list(wanted.values()), BUDGET_S)
    indices = list(wanted)
    return {indices[number]: pixels for number, pixels in found.items()}


def _local_path(reject: Reject, stack: ExitStack) -> str | None:
    """Returns the video's file; None for empty spans, and for videos of the web or inside files."""
    uri = reject["video_uri"]
    if reject["end_s"] <= reject["start_s"] or storage.is_http(uri):
        return None
    try:
        if not storage.is_file(uri):
            return None
        if storage.is_remote(uri) and storage.num_bytes(uri) > MAX_SOURCE_BYTES:
            return None
        return str(stack.enter_context(storage.local_file(uri)))
    except (StorageError, OSError, ValueError):
        return None


def originals(stage: StageDir, rejects: Sequence[Reject]) -> dict[int, np.ndarray]:
    """Decodes the middle frames of the clips that were kept instead of near-duplicates.

    Returns:
        Index of the reject -> uint8 [H, W, 3].
    """
    found = enumerate(rejects)
    clip_of = {index: clip for index, row in found if (clip := row["original_clip_id"])}
    if not clip_of:
        return {}
    frames = dict(_middle_frames(stage, sorted(set(clip_of.values()))))
    return {index: frames[clip] for index, clip in clip_of.items() if clip in frames}


def _middle_frames(stage: StageDir, clip_ids: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    for row in rows_of_clips(stage.uri, clip_ids, {"clip_id": str, "shard": str}):
        try:
            entry = read_shard_entry(stage.uri, row["shard"])
            place = next(clip for clip in entry.clips if clip.clip_id == row["clip_id"])
            data = storage.read_bytes(
                stage.path(row["shard"]), place.video_offset, place.video_bytes
            )
            frames = decode_clip(data)
        except (ConfigError, OSError, ValueError, StopIteration):  # taken down, lost or damaged
            continue
        yield row["clip_id"], images.thumbnail(frames[len(frames) // 2], SIDE_PX)
