"""Caches decoded clips up to a number of bytes."""

import threading
from dataclasses import dataclass

import numpy as np

from lafp.data.shards.format import Labels


@dataclass(frozen=True)
class DecodedClip:
    """Holds the decoded data of one clip."""

    frames: np.ndarray
    """uint8 [T, H, W, 3]."""
    labels: Labels | None
    latents: np.ndarray | None
    """float32 [T, Z], if a latent set is read too."""

    @property
    def num_bytes(self) -> int:
        """Returns the size in memory."""
        labels = self.labels or Labels()
        arrays = (self.frames, labels.optical_flow, labels.mask, self.latents)
        return sum(array.nbytes for array in arrays if array is not None)


class ClipCache:
    """Keeps decoded clips by key. The clips that came first stay.

    An epoch returns to a clip only after all others, so dropping the least recently used clip would
    drop each clip just before its next use. Several threads may use the cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._clips: dict[tuple[str, ...], DecodedClip] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...]) -> DecodedClip | None:
        """Returns a clip, or None if it is not in the cache."""
        # Without the lock: nothing is ever removed, and one look-up in a dict is atomic.
        return self._clips.get(key)

    def has_room(self, num_bytes: int) -> bool:
        """Says whether a clip of this size would be kept, unless another thread comes first."""
        return self._num_bytes + num_bytes <= self._max_bytes

    def put(self, key: tuple[str, ...], clip: DecodedClip) -> None:
        """Keeps a clip if there is room for it."""
        with self._lock:
            if key not in self._clips and self.has_room(clip.num_bytes):
                self._clips[key] = clip
                self._num_bytes += clip.num_bytes
