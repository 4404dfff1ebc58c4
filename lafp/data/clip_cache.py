"""Decoded clips, kept up to a number of bytes."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from lafp.data.shard_format import Labels


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
    """Decoded clips by a key, the least recently used dropped first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._clips: OrderedDict[tuple[str, ...], DecodedClip] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> DecodedClip | None:
        """A clip, if it is kept."""
        if key not in self._clips:
            return None
        self._clips.move_to_end(key)
        return self._clips[key]

    def put(self, key: tuple[str, ...], clip: DecodedClip) -> None:
        """Keeps a clip, at the price of older ones. One larger than the whole cache is not kept."""
        if clip.num_bytes > self._max_bytes:
            return
        self._clips[key] = clip
        self._num_bytes += clip.num_bytes
        while self._num_bytes > self._max_bytes:
            _, old = self._clips.popitem(last=False)
            self._num_bytes -= old.num_bytes
