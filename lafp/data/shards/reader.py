"""Reads clips into arrays of fixed shape: checks their bytes, and decodes only the used frames."""

# Shape suffixes in this file: B clips, T frames of the longest clip, R frames sent per clip.

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import numpy as np

from lafp import storage
from lafp.data.order.clips import ClipRef
from lafp.data.order.window_draws import WindowDraws
from lafp.data.shards.cache import ClipCache, DecodedClip
from lafp.data.shards.clip_bytes import checked_bytes
from lafp.data.shards.damage import REASONS, DamagedClipError
from lafp.data.shards.format import Labels, mask_shape
from lafp.data.shards.sets import open_shard_set
from lafp.data.stored_latents import LatentReader
from lafp.storage.map_ahead import map_ahead
from lafp.video.clip_codec import decode_frames


@dataclass(frozen=True)
class _StoredClip:
    video: bytes
    labels: bytes
    latents: np.ndarray | None


@dataclass(frozen=True)
class _Visit:
    ref: ClipRef
    clip: DecodedClip
    times: Sequence[int]
    frames: np.ndarray
    """uint8 [R, H, W, 3]: the frames at ``times``, then zeros."""


class ClipReader:
    """Reads and decodes clips into arrays of fixed shape.

    Args:
        shard_set: URI; or several URIs of one frame size, whose clips may lie in one batch.
        cache: Cache that the readers of a process share.
        latents: URI of a latent set of these clips, which is read too.
        draws: Windows whose frames are the only ones used; None returns every frame.
        pool: Threads that decode the clips of a batch in parallel; None decodes in the caller's.
    """

    def __init__(
        self,
        shard_set: str | tuple[str, ...],
        cache: ClipCache | None = None,
        latents: str | None = None,
        draws: WindowDraws | None = None,
        pool: Executor | None = None,
    ) -> None:
        uris = (shard_set,) if isinstance(shard_set, str) else shard_set
        specs = [open_shard_set(uri) for uri in uris]
        self.spec = specs[0]
        self._length = max(spec.max_clip_frames for spec in specs)
        self._has_masks = any(spec.num_masked_clips for spec in specs)
        # Sending selected frames pays only if that leaves frames out.
        self._draws = draws if draws and draws.max_frames < self._length else None
        self.num_sent = self._draws.max_frames if self._draws else self._length
        """R: number of frames sent per clip."""
        self._cache = cache or ClipCache(0)
        self._latents_uri = latents or ""
        self._latents = LatentReader(latents) if latents is not None else None
        self._map = pool.map if pool else map
        # An object store takes much longer to answer than to send a clip, so clips are asked for
        # several at a time.
        self._is_remote = any(storage.is_remote(uri) for uri in (*uris, self._latents_uri))
        # The last sound clip stands in if all clips of a later batch are damaged.
        self._spare: _Visit | None = None

    def read(self, ref: ClipRef) -> dict[str, np.ndarray]:
        """Reads one clip: the fields of ``ClipBatch`` without their batch axis."""
        return {name: array[0] for name, array in self.read_batch([ref]).items()}

    def read_batch(self, refs: Sequence[ClipRef]) -> dict[str, np.ndarray]:
        """Reads several clips and stacks them: the fields of ``ClipBatch``.

        Returns:
            ``frames`` uint8 [B, R, H, W, 3], zero beyond a clip's end; ``num_frames``, ``clip_key``
            and ``epoch`` int64 [B]; ``frame_rows`` int32 [B, T] if only the frames of ``draws`` are
            sent, else R = T; ``true_action`` [B, T, ...] in labeled sets; ``optical_flow`` float16
            [B, T, 2, h, w] if it was stored; ``mask`` uint8 [B, R, H, ceil(W / 8)] if some clips of
            the sets have one; ``latent_action`` float32 [B, T, Z] with a latent set;
            ``action_noise`` float32 [B, T, A] if all of the clips have it;
            ``state`` float32 [B, T, S] and ``condition`` float32 [B, G] if all of the clips have
            them in one size. T is the length of the longest clip of all sets, so every batch has
            one shape.

        Raises:
            DamagedClipError: A clip does not match its shard's entry.
            StorageError: Storage does not answer.
            ValueError: A clip is shorter than a window.
        """
        frames, visits = self._read(refs)
        for visit in visits:
            if isinstance(visit, DamagedClipError):
                raise visit
        return self._batch(frames, [visit for visit in visits if isinstance(visit, _Visit)])

    def sound_batches(
        self, refs: Sequence[ClipRef], batch_size: int
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields the number of the first clip and the clips of each batch.

        Batches are read by ``read_sound_batch``. Those in which no clip is sound are left out as
        long as no clip before them was.
        """
        for start in range(0, len(refs), batch_size):
            try:
                arrays = self.read_sound_batch(refs[start : start + batch_size])
            except DamagedClipError:
                continue
            yield start, arrays

    def read_sound_batch(
        self, refs: Sequence[ClipRef], num_batches: int = 1
    ) -> dict[str, np.ndarray]:
        """Reads clips like ``read_batch``, but replaces each damaged clip by another one.

        The stand-in is a clip of the same batch, or else the clip that was read last before. A
        damaged file must not end a run of days. ``damaged``, int64 [B, 2], holds key and reason of
        damaged clips, so that the caller can count them.

        Args:
            refs: Clips of one or more batches of equal size.
            num_batches: Number of batches, which are returned as one.

        Raises:
            DamagedClipError: No clip could be read so far.
            StorageError: Storage does not answer.
            ValueError: A clip is shorter than a window.
        """
        frames, visits = self._read(refs)
        damaged = np.zeros((len(refs), 2), np.int64)
        whole: list[_Visit] = []
        batch_size = len(refs) // num_batches
        for first in range(0, len(refs), batch_size):
            of_batch = visits[first : first + batch_size]
            found = [visit for visit in of_batch if isinstance(visit, _Visit)]
            found = found or ([self._spare] if self._spare else [])
            for row, visit in enumerate(of_batch, first):
                if isinstance(visit, DamagedClipError):
                    if not found:
                        raise visit
                    damaged[row] = refs[row].location.key, REASONS.index(visit.reason)
                    # Sound clips take turns, so that none of them counts much more than the others.
                    visit = found[(row - first) % len(found)]
                    frames[row] = visit.frames
                whole.append(visit)
            self._spare = found[-1]
        return self._batch(frames, whole) | {"damaged": damaged}

    def _read(self, refs: Sequence[ClipRef]) -> tuple[np.ndarray, list[_Visit | DamagedClipError]]:
        shape = len(refs), self.num_sent, self.spec.height_px, self.spec.width_px, 3
        frames_BRHWC = np.empty(shape, np.uint8)
        stored = map_ahead(self._read_ahead, refs) if self._is_remote else repeat(None)
        # Frames are decoded straight into the batch, which saves a copy of each.
        visits = self._map(self._visit, refs, self._times(refs), frames_BRHWC, stored)
        return frames_BRHWC, list(visits)

    def _read_ahead(self, ref: ClipRef) -> _StoredClip | DamagedClipError | None:
        """Reads a clip's bytes in another thread, unless the clip is in the cache."""
        if self._cache.get(self._key(ref)) is not None:
            return None
        try:
            return self._read_stored(ref)
        except DamagedClipError as error:
            return error

    def _times(self, refs: Sequence[ClipRef]) -> Sequence[Sequence[int]]:
        """Lists the frames that are sent, ascending."""
        if not self._draws:
            return [range(ref.location.num_frames) for ref in refs]
        num_frames, epoch, clip_key = _numbers(refs)
        return [times.tolist() for times in self._draws.frames_of(num_frames, epoch, clip_key)]

    def _visit(
        self,
        ref: ClipRef,
        times: Sequence[int],
        frames: np.ndarray,
        stored: _StoredClip | DamagedClipError | None,
    ) -> _Visit | DamagedClipError:
        """Reads one clip. Returns the error if the clip is damaged."""
        if isinstance(stored, DamagedClipError):
            return stored
        try:
            clip = self._decoded(ref, times, frames, stored)
        except DamagedClipError as error:
            return error
        # The array is not cleared when it is made, so the other rows hold old memory.
        frames[len(times) :] = 0
        return _Visit(ref, clip, times, frames)

    def _decoded(
        self, ref: ClipRef, times: Sequence[int], out: np.ndarray, stored: _StoredClip | None
    ) -> DecodedClip:
        """Returns a clip, cached or decoded now, and writes its frames at ``times`` to ``out``."""
        location = ref.location
        key = self._key(ref)
        if (clip := self._cache.get(key)) is None:
            stored = stored or self._read_stored(ref)
            shape = location.num_frames, *out.shape[1:]
            if not self._cache.has_room(math.prod(shape)):
                return self._decode(ref, stored, times, out)
            # A clip is cached whole, because its next visit shows other frames.
            every = range(location.num_frames)
            clip = self._decode(ref, stored, every, np.empty(shape, np.uint8))
            self._cache.put(key, clip)
        # Without `mode`, numpy fills a copy of `out` while it checks the indices. They need no
        # check: `_decode` made sure that the clip has as many frames as its entry says.
        np.take(clip.frames, times, axis=0, out=out[: len(times)], mode="clip")
        return clip

    def _key(self, ref: ClipRef) -> tuple[str, ...]:
        """Names a clip in the cache."""
        return ref.shard_set, self._latents_uri, ref.location.clip_id

    def _read_stored(self, ref: ClipRef) -> _StoredClip:
        """Reads the bytes of a clip. Raises DamagedClipError."""
        location = ref.location
        if not 1 <= location.num_frames <= self._length:  # memory is reserved for that many
            detail = f"its entry claims {location.num_frames} frames"
            raise DamagedClipError(location.clip_id, ref.shard, "undecodable", detail)
        video, labels = checked_bytes(storage.join(ref.shard_set, ref.shard), ref.location)
        latents = self._latents.read(ref.shard, ref.location) if self._latents else None
        return _StoredClip(video, labels, latents)

    def _decode(
        self, ref: ClipRef, stored: _StoredClip, times: Sequence[int], out: np.ndarray
    ) -> DecodedClip:
        """Decodes the frames at ``times`` into ``out``. Raises DamagedClipError."""
        location, shard = ref.location, storage.join(ref.shard_set, ref.shard)
        damaged = partial(DamagedClipError, location.clip_id, shard)
        try:
            num_frames = decode_frames(stored.video, times, out)
            labels = Labels.from_bytes(stored.labels) if stored.labels else None
        except ValueError as error:
            raise damaged("undecodable", str(error)) from error
        if num_frames != location.num_frames:
            detail = f"it has {num_frames} frames, its entry says {location.num_frames}"
            raise damaged("undecodable", detail)
        if labels is not None and (misfit := labels.misfit(num_frames)):
            raise damaged("undecodable", misfit)
        mask = labels.mask if labels else None
        wanted = mask_shape(num_frames, *out.shape[1:3])
        if mask is not None and (mask.dtype != np.uint8 or mask.shape != wanted):
            raise damaged("undecodable", f"its mask is {mask.dtype} {list(mask.shape)}")
        return DecodedClip(out, labels, stored.latents)

    def _batch(self, frames: np.ndarray, visits: Sequence[_Visit]) -> dict[str, np.ndarray]:
        """Stacks clips to the fields of ``ClipBatch``. See ``read_batch``."""
        length = self._length
        num_frames, epoch, clip_key = _numbers([visit.ref for visit in visits])
        batch = {"frames": frames, "num_frames": num_frames, "clip_key": clip_key, "epoch": epoch}
        if self._draws:
            # Frames that are not sent have a row that does not exist, so that using one is an
            # error.
            batch["frame_rows"] = np.full((len(visits), length), self.num_sent, np.int32)
            for rows, visit in zip(batch["frame_rows"], visits, strict=True):
                rows[visit.times] = range(len(visit.times))
        if self._has_masks:
            batch["mask"] = _masks(frames, visits)
        labels = [visit.clip.labels or Labels() for visit in visits]
        per_frame = {
            "true_action": [of_clip.true_action for of_clip in labels],
            "optical_flow": [of_clip.optical_flow for of_clip in labels],
            "latent_action": [visit.clip.latents for visit in visits],
        }
        for name, arrays in per_frame.items():
            found = [array for array in arrays if array is not None]
            if found and len(found) < len(visits):
                uris = ", ".join(sorted({visit.ref.shard_set for visit in visits}))
                raise RuntimeError(f"Some clips of {uris} have a {name} and some have none.")
            if found:
                batch[name] = _stack(found, length)
        states = [of_clip.state for of_clip in labels if of_clip.state is not None]
        # Sets of several robots hold states of several sizes, or none. Only policies use states,
        # and they check the size.
        if len(states) == len(visits) and len({state.shape[1:] for state in states}) == 1:
            batch["state"] = _stack(states, length)
        noises = [of_clip.action_noise for of_clip in labels if of_clip.action_noise is not None]
        if len(noises) == len(visits):
            batch["action_noise"] = _stack(noises, length)
        conditions = [of_clip.condition for of_clip in labels if of_clip.condition is not None]
        if len(conditions) == len(visits) and len({c.shape for c in conditions}) == 1:
            batch["condition"] = np.stack(conditions)
        return batch


def _masks(frames: np.ndarray, visits: Sequence[_Visit]) -> np.ndarray:
    """Returns the packed masks of the frames that are sent, uint8 [B, R, H, ceil(W / 8)]."""
    masks = np.zeros((len(frames), *mask_shape(*frames.shape[1:4])), np.uint8)
    for rows, visit in zip(masks, visits, strict=True):
        stored = visit.clip.labels.mask if visit.clip.labels else None
        # A clip without a mask counts in full: all of its pixels are the agent's.
        rows[: len(visit.times)] = 0xFF if stored is None else stored[visit.times]
    return masks


def _numbers(refs: Sequence[ClipRef]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ``num_frames``, ``epoch`` and ``clip_key``, int64 [B]."""
    rows = [(ref.location.num_frames, ref.epoch, ref.location.key) for ref in refs]
    num_frames, epoch, clip_key = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    return num_frames, epoch, clip_key


def _stack(arrays: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Stacks arrays whose first axes differ, zero-padded at the end to ``length``."""
    stacked = np.empty((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
        row[len(array) :] = 0
    return stacked
