"""Shards -> clips: which clips a step reads, in which order, and the decoded arrays.

The order of an epoch is a function of (seed, epoch) and the manifest alone. A step is a range of
positions in that order, so a **cursor is one number** (the step), any number of workers splits a
step the same way, and nothing is lost or read twice after a resume.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from zipfile import BadZipFile

import numpy as np

from lafp import storage
from lafp.config import ConfigError
from lafp.data.clip_cache import ClipCache, DecodedClip
from lafp.data.damage import REASONS, DamagedClipError
from lafp.data.latent_sets import LatentReader
from lafp.data.randomness import derive_seed, keyed_permutation
from lafp.data.sampling import MixedOrder, MotionWeights, num_visits
from lafp.data.shard_format import ClipLocation, Labels, ShardEntry, ShardSet, Split
from lafp.video import decode_clip


def open_shard_set(uri: str) -> ShardSet:
    """Reads ``shard_set.json``.

    Raises:
        ConfigError: There is no finished shard set at ``uri``.
    """
    path = storage.join(uri, "shard_set.json")
    if not storage.is_file(path):
        raise ConfigError(
            f"No shard set at {uri}: shard_set.json is missing. Write one with "
            "`python -m ray_jobs.preprocess`, or correct the path."
        )
    return ShardSet.from_json(storage.read_text(path))


@lru_cache(maxsize=256)
def read_shard_entry(uri: str, shard: str) -> ShardEntry:
    """The entry of one shard: ``train-000000.json`` for ``train-000000.tar``."""
    path = storage.join(uri, shard.removesuffix(".tar") + ".json")
    try:
        return ShardEntry.from_json(storage.read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path} is missing, so nobody knows what lies in {shard}. Write the shard set again."
        ) from error


def videos_of_clips(uri: str, clip_ids: Sequence[str]) -> dict[str, str]:
    """Clip id -> id of its source video, from ``clips.parquet``."""
    import pyarrow.parquet as pq

    with storage.local_file(storage.join(uri, "clips.parquet")) as path:
        table = pq.read_table(
            path, columns=["clip_id", "video_id"], filters=[("clip_id", "in", list(clip_ids))]
        )
    return {row["clip_id"]: row["video_id"] for row in table.to_pylist()}


def shards_sha256(uri: str) -> str:
    """Hash of the content of a shard set, wherever it lies: of its shards' checksums."""
    import pyarrow.parquet as pq

    open_shard_set(uri)  # a clear error when there is none
    with storage.local_file(storage.join(uri, "manifest.parquet")) as path:
        rows = pq.read_table(path, columns=["shard", "sha256"]).to_pylist()
    lines = sorted(f"{row['shard']} {row['sha256']}" for row in rows)
    return sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class ClipRef:
    """One visit to one clip."""

    shard: str
    location: ClipLocation
    epoch: int
    """Which visit to the clip this is: the epoch; further visits in an epoch add 2^32 each."""
    shard_set: str


@dataclass(frozen=True, kw_only=True)
class ClipOrder:
    """The endless, deterministic sequence of clip visits of a training run.

    An epoch permutes the shards, cuts them into pools of ``pool_shards`` and permutes the clips
    across each pool. So memory holds the index of one pool, not of the corpus, and two clips of
    one shard land a pool apart on average rather than side by side.
    """

    shard_set: str
    split: Split
    seed: int
    pool_shards: int = 16
    only_clips: frozenset[str] | None = None
    """Clip ids to visit; None visits all of the split. Used for small labeled subsets."""
    skipped_clips: frozenset[str] = frozenset()
    """Clip ids to leave out, e.g. the few that could not be labeled."""
    motion_power: float = 0.0
    """Clips are visited in proportion to their motion to this power. If it is not 0, an epoch
    visits a clip as often as its weight says, rounded up or down anew in each."""
    _motion: MotionWeights | None = field(init=False, repr=False, compare=False)
    _shards: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shards = _read_manifest(self.shard_set, self.split)
        power, motion = self.motion_power, None
        if power and shards:
            motion = MotionWeights(self.shard_set, self.split, power)
        object.__setattr__(self, "_motion", motion)
        if self.only_clips is not None or self.skipped_clips or motion:
            counts = [(name, self._num_visits(name)) for name, _ in shards]
            shards = [(name, count) for name, count in counts if count]
        if not shards:
            raise ConfigError(f"No {self.split} clips in {self.shard_set}.")
        object.__setattr__(self, "_shards", tuple(shards))

    @property
    def num_clips(self) -> int:
        """Visits per epoch; each is to another clip unless clips are weighted."""
        return sum(count for _, count in self._shards)

    @property
    def shard_sets(self) -> tuple[str, ...]:
        """URIs of what is visited."""
        return (self.shard_set,)

    def visits(self, start: int = 0) -> Iterator[ClipRef]:
        """Endless visits from position ``start`` of the sequence."""
        epoch, skip = divmod(start, self.num_clips)
        while True:
            yield from self._epoch(epoch, skip)
            epoch, skip = epoch + 1, 0

    def _epoch(self, epoch: int, skip: int) -> Iterator[ClipRef]:
        order = keyed_permutation(len(self._shards), self.seed, epoch)
        for first in range(0, len(order), self.pool_shards):
            pool = [self._shards[i] for i in order[first : first + self.pool_shards]]
            size = sum(count for _, count in pool)
            if skip >= size:
                skip -= size
                continue
            refs = [ref for name, _ in pool for ref in self._refs(name, epoch)]
            for i in keyed_permutation(size, self.seed, epoch, first + 1)[skip:]:
                yield refs[i]
            skip = 0

    def _refs(self, shard: str, epoch: int) -> list[ClipRef]:
        """The visits to one shard in an epoch, in the shard's order."""
        clips = self._locations(shard)
        if self._motion is None:
            return [ClipRef(shard, clip, epoch, self.shard_set) for clip in clips]
        key = derive_seed(shard)
        counts = num_visits(self._motion.of(clips), self.seed, epoch, key)
        return [
            ClipRef(shard, clip, epoch + (repeat << 32), self.shard_set)
            for clip, count in zip(clips, counts, strict=True)
            for repeat in range(count)
        ]

    def _num_visits(self, shard: str) -> int:
        clips = self._locations(shard)
        return round(self._motion.of(clips).sum()) if self._motion and clips else len(clips)

    def _locations(self, shard: str) -> list[ClipLocation]:
        clips = read_shard_entry(self.shard_set, shard).clips
        if self.only_clips is not None:
            clips = tuple(c for c in clips if c.clip_id in self.only_clips)
        return [c for c in clips if c.clip_id not in self.skipped_clips]


def _read_manifest(uri: str, split: str) -> list[tuple[str, int]]:
    import pyarrow.parquet as pq

    open_shard_set(uri)  # a clear error when there is none
    with storage.local_file(storage.join(uri, "manifest.parquet")) as path:
        rows = pq.read_table(path, columns=["shard", "split", "num_clips"]).to_pylist()
    return sorted((row["shard"], row["num_clips"]) for row in rows if row["split"] == split)


@dataclass(frozen=True, kw_only=True)
class ClipDemand:
    """A stream of clips that a task wants at every step."""

    order: ClipOrder | MixedOrder
    clips_per_step: int
    """Over all ranks, all gradient-accumulation rounds of a step included."""
    latents: str | None = None
    """URI of a latent set of these clips, to be read along."""


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """The clips that one rank reads, step by step."""

    order: ClipOrder | MixedOrder
    clips_per_step: int
    """Over all ranks."""
    rank: int = 0
    world_size: int = 1
    start_step: int = 0

    def __post_init__(self) -> None:
        if self.clips_per_step % self.world_size:
            raise ConfigError(
                f"{self.clips_per_step} clips per step do not divide among {self.world_size} "
                "workers. Change global_batch_size, windows_per_clip or num_workers."
            )

    def refs(self) -> Iterator[ClipRef]:
        """This rank's visits, endless, ``clips_per_step / world_size`` in a row per step."""
        share = self.clips_per_step // self.world_size
        visits = self.order.visits(self.start_step * self.clips_per_step)
        for position, ref in enumerate(visits):
            if (position % self.clips_per_step) // share == self.rank:
                yield ref


class ClipReader:
    """Reads and decodes clips to arrays of fixed shape.

    Args:
        shard_set: URI; or several, of one frame size, whose clips may lie in one batch.
        cache: Shared by the readers of a process.
        latents: URI of a latent set of these clips, to be read along.
    """

    def __init__(
        self,
        shard_set: str | tuple[str, ...],
        cache: ClipCache | None = None,
        latents: str | None = None,
    ) -> None:
        specs = [open_shard_set(uri) for uri in _as_tuple(shard_set)]
        self.spec = specs[0]
        self._length = max(spec.max_clip_frames for spec in specs)
        self._cache = cache or ClipCache(0)
        self._latents_uri = latents or ""
        self._latents = LatentReader(latents) if latents is not None else None
        self._spare: tuple[ClipRef, DecodedClip] | None = None

    def read(self, ref: ClipRef) -> dict[str, np.ndarray]:
        """One clip: the fields of ``ClipBatch`` without their batch axis."""
        return {name: array[0] for name, array in self.read_batch([ref]).items()}

    def read_batch(self, refs: Sequence[ClipRef]) -> dict[str, np.ndarray]:
        """Several clips, stacked: the fields of ``ClipBatch``.

        Returns:
            ``frames`` uint8 [B, T, H, W, 3], zero beyond a clip's end; ``num_frames``,
            ``clip_key`` and ``epoch`` int64 [B]; in labeled sets ``true_action`` [B, T, ...]; where
            it was stored ``flow`` float16 [B, T, 2, h, w]; with a latent set ``latent_action``
            float32 [B, T, Z]; ``state`` float32 [B, T, S] and ``condition`` float32 [B, G] where
            all of the clips have them alike. T is that of the longest clip of all sets, so every
            batch has one shape.

        Raises:
            DamagedClipError: A clip is not what its shard's entry says.
            StorageError: Storage does not answer.
        """
        return self._stacked(refs, [self._decoded(ref) for ref in refs])

    def read_sound_batch(self, refs: Sequence[ClipRef]) -> dict[str, np.ndarray]:
        """``read_batch``, where another clip stands in for each that is damaged.

        A clip of the same batch, or else the last one that was read before. A damaged file must
        not end a run of days; ``damaged``, int64 [B, 2], tells whoever counts.

        Raises:
            DamagedClipError: No clip could be read so far.
            StorageError: Storage does not answer.
        """
        visits: list[tuple[ClipRef, DecodedClip] | None] = []
        damaged = np.zeros((len(refs), 2), np.int64)
        for row, ref in enumerate(refs):
            try:
                visits.append((ref, self._decoded(ref)))
                self._spare = visits[-1]
            except DamagedClipError as error:
                visits.append(None)
                damaged[row] = ref.location.key, REASONS.index(error.reason)
                first_error = error
        found = [visit for visit in visits if visit] or ([self._spare] if self._spare else [])
        if not found:
            raise first_error
        whole = [visit or found[row % len(found)] for row, visit in enumerate(visits)]
        batch = self._stacked([ref for ref, _ in whole], [clip for _, clip in whole])
        return batch | {"damaged": damaged}

    def _stacked(
        self, refs: Sequence[ClipRef], clips: Sequence[DecodedClip]
    ) -> dict[str, np.ndarray]:
        length = self._length
        batch = {
            "frames": _stack([clip.frames for clip in clips], length),
            "num_frames": np.array([len(clip.frames) for clip in clips], np.int64),
            "clip_key": np.array([ref.location.key for ref in refs], np.int64),
            "epoch": np.array([ref.epoch for ref in refs], np.int64),
        }
        labels = [clip.labels or Labels() for clip in clips]
        per_frame = {
            "true_action": [of_clip.true_action for of_clip in labels],
            "flow": [of_clip.flow for of_clip in labels],
            "latent_action": [clip.latents for clip in clips],
        }
        for name, arrays in per_frame.items():
            found = [array for array in arrays if array is not None]
            if found and len(found) < len(clips):
                uris = ", ".join(sorted({ref.shard_set for ref in refs}))
                raise RuntimeError(f"Some clips of {uris} have a {name} and some have none.")
            if found:
                batch[name] = _stack(found, length)
        states = [of_clip.state for of_clip in labels if of_clip.state is not None]
        # Sets of several robots hold states of several sizes, or none: only policies ask for them.
        if len(states) == len(clips) and len({state.shape[1:] for state in states}) == 1:
            batch["state"] = _stack(states, length)
        conditions = [of_clip.condition for of_clip in labels if of_clip.condition is not None]
        if len(conditions) == len(clips) and len({c.shape for c in conditions}) == 1:
            batch["condition"] = np.stack(conditions)
        return batch

    def _decoded(self, ref: ClipRef) -> DecodedClip:
        location = ref.location
        key = ref.shard_set, self._latents_uri, location.clip_id
        if (kept := self._cache.get(key)) is not None:
            return kept
        shard = storage.join(ref.shard_set, ref.shard)
        video, labels_data = self._checked_bytes(shard, location)
        damaged = partial(DamagedClipError, location.clip_id, shard)
        try:
            frames = decode_clip(video)
            labels = Labels.from_bytes(labels_data) if labels_data else None
        except (ValueError, BadZipFile) as error:
            raise damaged("undecodable", str(error)) from error
        if len(frames) != location.num_frames:
            detail = f"it has {len(frames)} frames, its entry says {location.num_frames}"
            raise damaged("undecodable", detail)
        latents = self._latents.read(ref.shard, location) if self._latents else None
        clip = DecodedClip(frames, labels, latents)
        self._cache.put(key, clip)
        return clip

    def _checked_bytes(self, shard: str, location: ClipLocation) -> tuple[bytes, bytes]:
        """The clip's video and labels."""
        damaged = partial(DamagedClipError, location.clip_id, shard)
        spans = [(location.video_offset, location.video_bytes)]
        if location.labels_bytes:
            spans.append((location.labels_offset, location.labels_bytes))
        try:
            members = [storage.read_bytes(shard, *span) for span in spans]
        except FileNotFoundError as error:
            raise damaged("missing", "the file is gone") from error
        if sum(map(len, members)) < location.video_bytes + location.labels_bytes:
            raise damaged("truncated", "the file ends before the clip does")
        video, labels = members if location.labels_bytes else (members[0], b"")
        if location.crc32 not in (None, zlib.crc32(labels, zlib.crc32(video))):
            raise damaged("checksum", "its bytes have changed since they were written")
        return video, labels


def _as_tuple(shard_set: str | tuple[str, ...]) -> tuple[str, ...]:
    return (shard_set,) if isinstance(shard_set, str) else shard_set


def _stack(arrays: Sequence[np.ndarray], length: int) -> np.ndarray:
    """Stacks arrays whose first axes differ, zero-padded at the end to ``length``."""
    stacked = np.empty((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
        row[len(array) :] = 0
    return stacked
