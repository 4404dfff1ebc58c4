"""Reads single clips of a shard set: where they lie, their frames as JPEG, and their labels."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from lafp import storage
from lafp.data.shards.format import ClipLocation, Labels, ShardEntry, entry_name
from lafp.storage import strict_json
from lafp.video.clip_codec import decode_frames
from lafp.view.viewed_sets import ViewedSet

# An entry of a shard of small clips has some 10,000 of them, which take 4 MB.
_ENTRIES_KEPT, _FRAMES_KEPT = 16, 1024
_JPEG_QUALITY = 92
MAX_SERIES = 64
"""Number of dimensions of a label that are sent to the page, which shows no more."""


class MissingError(LookupError):
    """Says that a clip, a frame or a file is not there (any more). The message is for the user."""


class StoredClips:
    """Reads clips of one set by the name of their shard and their id. Threads may share it."""

    def __init__(self, viewed: ViewedSet) -> None:
        self._set = viewed
        self._entry = lru_cache(_ENTRIES_KEPT)(self._read_entry)
        self.frame = lru_cache(_FRAMES_KEPT)(self._frame)

    def location(self, shard: str, clip_id: str) -> ClipLocation:
        """Returns where a clip lies in its shard.

        Raises:
            MissingError: The set has no such shard, or the shard no such clip.
        """
        found = self._entry(shard).get(clip_id) if shard in self._set.shards else None
        if found is None:
            raise MissingError(f"{shard} of {self._set.name} has no clip {clip_id}.")
        return found

    def shard_uri(self, shard: str) -> str:
        """Returns the URI of a shard."""
        return storage.join(self._set.uri, shard)

    def _read_entry(self, shard: str) -> dict[str, ClipLocation]:
        path = storage.join(self._set.uri, entry_name(shard))
        try:
            entry = strict_json.read(ShardEntry, path)
        except FileNotFoundError:
            raise MissingError(f"{path} is not there any more. Start `lafp view` again.") from None
        return {clip.clip_id: clip for clip in entry.clips}

    def _frame(self, shard: str, clip_id: str, number: int) -> bytes:
        """Returns one frame as JPEG.

        Raises:
            MissingError: There is no such frame, or the clip cannot be decoded.
        """
        place = self.location(shard, clip_id)
        if not 0 <= number < place.num_frames:
            raise MissingError(f"Clip {clip_id} has {place.num_frames} frames, none is {number}.")
        assert self._set.spec is not None
        frames = np.empty((1, self._set.spec.height_px, self._set.spec.width_px, 3), np.uint8)
        try:
            data = self._read(shard, place.video_offset, place.video_bytes)
            decode_frames(data, [number], frames)
        except ValueError as error:
            raise MissingError(f"Clip {clip_id} in {shard} is damaged: {error}") from None
        buffer = io.BytesIO()
        Image.fromarray(frames[0]).save(buffer, "jpeg", quality=_JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()

    def labels(self, shard: str, clip_id: str) -> list[dict[str, Any]]:
        """Returns the arrays that are stored with a clip: name, shape, and values by dimension.

        Raises:
            MissingError: The labels cannot be read.
        """
        place = self.location(shard, clip_id)
        if not place.labels_bytes:
            return []
        try:
            labels = Labels.from_bytes(self._read(shard, place.labels_offset, place.labels_bytes))
        except ValueError as error:
            raise MissingError(f"The labels of clip {clip_id} are damaged: {error}") from None
        arrays = {name: array for name, array in vars(labels).items() if array is not None}
        return [series(name, array) for name, array in arrays.items()]

    def _read(self, shard: str, offset: int, length: int) -> bytes:
        try:
            data = storage.read_bytes(self.shard_uri(shard), offset, length)
        except FileNotFoundError:
            raise MissingError(f"{shard} is not there any more. Start `lafp view` again.") from None
        if len(data) < length:
            raise MissingError(f"{shard} ends before this clip does.")
        return data


def series(name: str, array: np.ndarray) -> dict[str, Any]:
    """Describes an array: its shape, and one list of numbers per dimension if it is [T, D] or [T].

    Args:
        name: Name of the array.
        array: Numbers, with time along the first axis.
    """
    described: dict[str, Any] = {"name": name, "shape": list(array.shape), "dims": []}
    if name != "condition" and array.ndim in (1, 2):
        columns = list(array.T) if array.ndim == 2 else [array]
        described["dims"] = [column.tolist() for column in columns[:MAX_SERIES]]
    return described
