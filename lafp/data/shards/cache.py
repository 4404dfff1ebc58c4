"""Decoded clips, kept up to a number of bytes."""

import threading
from dataclasses import dataclass

import numpy as np

from lafp.data.shards.format import Labels


@dataclass(frozen=True)
class DecodedClip:
    """What a reader keeps of one clip."""

    frames: np.ndarray
    """uint8 [T, H, W, 3]."""
    labels: Labels | None
    latents: np.ndarray | None
    """float32 [T, Z], where a latent set is read too."""

    @property
    def num_bytes(self) -> int:
        """In memory."""
        flow = self.labels.flow if self.labels else None
        arrays = [array for array in (self.frames, flow, self.latents) if array is not None]
        return sum(array.nbytes for array in arrays)


class ClipCache:
    """Decoded clips by a key; what came first stays.

    An epoch comes back to a clip when all others have been seen, so dropping the least recently
    used would drop a clip just before its next use. May be used by several threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._clips: dict[tuple[str, ...], DecodedClip] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...]) -> DecodedClip | None:
        """A clip, if it is kept."""
        return self._clips.get(key)

    def has_room(self, num_bytes: int) -> bool:
        """Whether a clip of that size would be kept."""
        return self._num_bytes + num_bytes <= self._max_bytes

    def put(self, key: tuple[str, ...], clip: DecodedClip) -> None:
        """Keeps a clip if there is room for it."""
        with self._lock:
            if key not in self._clips and self.has_room(clip.num_bytes):
                self._clips[key] = clip
                self._num_bytes += clip.num_bytes
