"""Finds the frame pairs whose stored latent actions are nearest to those of a given pair."""

import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lafp import storage
from lafp.data.shards.format import entry_name
from lafp.data.stored_latents import ClipLatents, LatentShard, open_latent_set
from lafp.storage import strict_json

MAX_BYTES = 64 * 2**20
"""So many bytes of latents are searched: of a larger set, files that are chosen at random."""
NUM_NEIGHBOURS = 8


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One frame pair, (frame, frame + 1) of a clip."""

    clip_id: str
    frame: int
    distance: float


class LatentIndex:
    """Searches one latent set. The first search reads the latents; threads may share it."""

    def __init__(self, uri: str, shards: frozenset[str]) -> None:
        self._uri, self._shards = uri, sorted(shards)
        self._lock = threading.Lock()
        self._is_read = False

    @property
    def extent(self) -> dict[str, int]:
        """Returns how many of all frame pairs are searched."""
        return {"num_searched": len(self._clip_of), "num_pairs": self._num_pairs}

    def nearest(self, latent_Z: np.ndarray, video_id: str) -> list[Neighbour]:
        """Returns the nearest pairs of other videos, at most one of each, the nearest first.

        Args:
            latent_Z: float32 [Z].
            video_id: The video whose pairs are left out.
        """
        with self._lock:
            if not self._is_read:
                self._read()
                self._is_read = True
        distance_N = np.linalg.norm(self._latents - latent_Z, axis=1)
        best: dict[str, Neighbour] = {}
        for row in _ascending(distance_N):
            clip = self._clips[self._clip_of[row]]
            if clip.video_id != video_id and clip.video_id not in best:
                best[clip.video_id] = Neighbour(
                    clip_id=clip.clip_id,
                    frame=int(self._frame_of[row]),
                    distance=float(distance_N[row]),
                )
                if len(best) == NUM_NEIGHBOURS:
                    break
        return list(best.values())

    def _read(self) -> None:
        spec = open_latent_set(self._uri)
        self._num_pairs = spec.num_pairs
        latents = [np.zeros((0, spec.latent_action_dim), np.float32)]
        clip_of, frame_of = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        self._clips: list[ClipLatents] = []
        num_bytes = 0
        # Shuffled, so that the files that are read come from everywhere.
        for shard in np.random.default_rng(0).permutation(self._shards).tolist():
            if num_bytes >= MAX_BYTES:
                break
            entry = strict_json.read(LatentShard, storage.join(self._uri, entry_name(shard)))
            data = storage.read_bytes(storage.join(self._uri, entry.file))
            rows = np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32)
            room = (MAX_BYTES - num_bytes) // (4 * spec.latent_action_dim) + 1
            latents.append(rows[:room])
            num_bytes += latents[-1].nbytes
            for clip in entry.clips:
                number = min(clip.num_pairs, room - clip.first_row)
                if number <= 0:
                    break
                clip_of.append(np.full(number, len(self._clips), np.int32))
                frame_of.append(np.arange(number, dtype=np.int32) + entry.frame_stack - 1)
                self._clips.append(clip)
        self._latents = np.concatenate(latents)
        self._clip_of, self._frame_of = np.concatenate(clip_of), np.concatenate(frame_of)


def _ascending(distance_N: np.ndarray) -> Iterator[Any]:
    """Yields the indices of the smallest distances first, and sorts no more than are asked for."""
    number, done = 256, 0
    while done < len(distance_N):
        number = min(number, len(distance_N))
        first = np.argpartition(distance_N, number - 1)[:number]
        yield from first[np.argsort(distance_N[first], kind="stable")][done:]
        done, number = number, 8 * number
