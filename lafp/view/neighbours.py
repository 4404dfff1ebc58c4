"""Finds the frame pairs whose stored latent actions are nearest to those of a given pair."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lafp import storage
from lafp.data.packing import packed
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.format import entry_name
from lafp.data.stored_latents import ClipLatents, LatentShard, open_latent_set
from lafp.storage import strict_json

KEPT_BYTES = 64 * 2**20
"""So many bytes of latents stay in memory. The others are read anew in each search."""
CHUNK_BYTES = 4 * 2**20
"""So many bytes of latents are searched at a time, or the latents of one clip."""
NUM_NEIGHBOURS = 8
_RESULTS_KEPT = 256


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One frame pair, (frame, frame + 1) of a clip."""

    clip_id: str
    frame: int
    distance: float


class LatentIndex:
    """Searches one latent set in bounded memory. Threads may share it."""

    def __init__(self, uri: str, shards: frozenset[str]) -> None:
        self._uri, self._shards = uri, sorted(shards)
        self.num_pairs = open_latent_set(uri).num_pairs
        """Number of frame pairs that are searched: all."""
        self._kept: dict[str, tuple[LatentShard, bytes]] = {}
        self._num_kept_bytes = 0
        self._lock = threading.Lock()
        self._found = lru_cache(_RESULTS_KEPT)(self._search)

    def nearest(self, latent_Z: np.ndarray, video_id: str) -> list[Neighbour]:
        """Returns the nearest pairs of other videos, at most one of each, the nearest first.

        Args:
            latent_Z: float32 [Z].
            video_id: The video whose pairs are left out.

        Raises:
            DamagedClipError: A file does not match its entry.
        """
        return list(self._found(latent_Z.astype(np.float32).tobytes(), video_id))

    def _search(self, latent: bytes, video_id: str) -> tuple[Neighbour, ...]:
        latent_Z = np.frombuffer(latent, np.float32)
        best: dict[str, Neighbour] = {}
        for shard in self._shards:
            entry, kept = self._opened(shard)
            for clips in _chunks(entry):
                rows = self._rows(entry, clips, kept)
                _take_nearer(best, clips, rows, latent_Z, entry.frame_stack - 1, video_id)
        return tuple(best.values())

    def _opened(self, shard: str) -> tuple[LatentShard, bytes | None]:
        """Returns the entry of a shard, and its latents if they stay in memory."""
        if shard in self._kept:
            return self._kept[shard]
        entry = strict_json.read(LatentShard, storage.join(self._uri, entry_name(shard)))
        num_bytes = entry.num_pairs * _row_bytes(entry)
        if self._num_kept_bytes + num_bytes > KEPT_BYTES:
            return entry, None
        data = self._read(entry, entry.clips, 0, num_bytes)
        with self._lock:
            if shard not in self._kept:
                self._kept[shard] = entry, data
                self._num_kept_bytes += num_bytes
        return entry, data

    def _rows(
        self, entry: LatentShard, clips: Sequence[ClipLatents], kept: bytes | None
    ) -> np.ndarray:
        """Returns the latents of clips that follow each other, float32 [N, Z]."""
        begin = clips[0].first_row * _row_bytes(entry)
        num_bytes = sum(clip.num_pairs for clip in clips) * _row_bytes(entry)
        if kept is None:
            data = self._read(entry, clips, begin, num_bytes)
        else:
            data = kept[begin : begin + num_bytes]
        stored = np.frombuffer(data, entry.dtype).reshape(-1, entry.latent_action_dim)
        return stored.astype(np.float32)

    def _read(
        self, entry: LatentShard, clips: Sequence[ClipLatents], begin: int, num_bytes: int
    ) -> bytes:
        file = storage.join(self._uri, entry.file)
        data = storage.read_bytes(file, entry.data_offset + begin, num_bytes)
        if len(data) < num_bytes:
            ends = "the file ends before its latents do"
            raise DamagedClipError(clips[-1].clip_id, file, "truncated", ends)
        return data


def _row_bytes(entry: LatentShard) -> int:
    return entry.latent_action_dim * np.dtype(entry.dtype).itemsize


def _chunks(entry: LatentShard) -> Iterator[list[ClipLatents]]:
    """Yields the clips of a shard in groups of at most ``CHUNK_BYTES``, or of one clip."""
    clips = (clip for clip in entry.clips if clip.num_pairs)
    return packed(clips, lambda clip: clip.num_pairs * _row_bytes(entry), CHUNK_BYTES)


def _take_nearer(
    best: dict[str, Neighbour],
    clips: Sequence[ClipLatents],
    rows_NZ: np.ndarray,
    latent_Z: np.ndarray,
    first_frame: int,
    video_id: str,
) -> None:
    """Puts into ``best`` (video -> its nearest pair, the nearest first) what is nearer."""
    distance_N = np.linalg.norm(rows_NZ - latent_Z, axis=1)
    ends = np.cumsum([clip.num_pairs for clip in clips])
    begins = ends - [clip.num_pairs for clip in clips]
    least = np.minimum.reduceat(distance_N, begins)
    is_full = len(best) == NUM_NEIGHBOURS
    limit = max(each.distance for each in best.values()) if is_full else np.inf
    for number in np.flatnonzero(least < limit).tolist():
        clip = clips[number]
        known = best.get(clip.video_id)
        if clip.video_id != video_id and (known is None or least[number] < known.distance):
            pair = int(distance_N[begins[number] : ends[number]].argmin())
            best[clip.video_id] = Neighbour(
                clip_id=clip.clip_id, frame=first_frame + pair, distance=float(least[number])
            )
    nearest = sorted(best.items(), key=lambda item: item[1].distance)[:NUM_NEIGHBOURS]
    best.clear()
    best.update(nearest)
