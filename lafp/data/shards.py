"""Shards -> clips: which clips a step reads, in which order, and the decoded arrays.

The order of an epoch is a function of (seed, epoch) and the manifest alone. A step is a range of
positions in that order, so a **cursor is one number** (the step), any number of workers splits a
step the same way, and nothing is lost or read twice after a resume.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from lafp import storage
from lafp.config import ConfigError
from lafp.data.randomness import keyed_permutation
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
    return ShardEntry.from_json(
        storage.read_text(storage.join(uri, shard.removesuffix(".tar") + ".json"))
    )


@dataclass(frozen=True)
class ClipRef:
    """One visit to one clip."""

    shard: str
    location: ClipLocation
    epoch: int


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
    _shards: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shards = _read_manifest(self.shard_set, self.split)
        if self.only_clips is not None:
            counts = [(name, len(self._locations(name))) for name, _ in shards]
            shards = [(name, count) for name, count in counts if count]
        if not shards:
            raise ConfigError(f"No {self.split} clips in {self.shard_set}.")
        object.__setattr__(self, "_shards", tuple(shards))

    @property
    def num_clips(self) -> int:
        """Clips per epoch."""
        return sum(count for _, count in self._shards)

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
            refs = [(name, loc) for name, _ in pool for loc in self._locations(name)]
            for i in keyed_permutation(size, self.seed, epoch, first + 1)[skip:]:
                shard, location = refs[i]
                yield ClipRef(shard, location, epoch)
            skip = 0

    def _locations(self, shard: str) -> list[ClipLocation]:
        clips = read_shard_entry(self.shard_set, shard).clips
        return [c for c in clips if self.only_clips is None or c.clip_id in self.only_clips]


def _read_manifest(uri: str, split: str) -> list[tuple[str, int]]:
    import pyarrow.parquet as pq

    open_shard_set(uri)  # a clear error when there is none
    with storage.local_file(storage.join(uri, "manifest.parquet")) as path:
        rows = pq.read_table(path, columns=["shard", "split", "num_clips"]).to_pylist()
    return sorted((row["shard"], row["num_clips"]) for row in rows if row["split"] == split)


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """The clips that one rank reads, step by step. Picklable: Ray's readers get it."""

    order: ClipOrder
    clips_per_step: int
    """Over all ranks."""
    rank: int = 0
    world_size: int = 1
    start_step: int = 0
    cache_bytes: int = 0
    """Decoded frames that one reader may keep, so that small sets decode once."""

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
    """Reads and decodes clips of one shard set to arrays of fixed shape."""

    def __init__(self, shard_set: str, cache_bytes: int = 0) -> None:
        self.uri = shard_set
        self.spec = open_shard_set(shard_set)
        self._cache: OrderedDict[str, tuple[np.ndarray, Labels | None]] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0

    def read(self, ref: ClipRef) -> dict[str, np.ndarray]:
        """One clip: the fields of ``ClipBatch`` without their batch axis."""
        frames, labels = self._decoded(ref)
        num_frames = len(frames)
        max_frames = self.spec.max_clip_frames
        row: dict[str, np.ndarray] = {
            "frames": _pad(frames, max_frames),
            "num_frames": np.asarray(num_frames),
            "clip_key": np.asarray(ref.location.key),
            "epoch": np.asarray(ref.epoch),
        }
        if labels is not None:
            row["true_action"] = _pad(labels.true_action, max_frames)
        return row

    def _decoded(self, ref: ClipRef) -> tuple[np.ndarray, Labels | None]:
        location = ref.location
        if location.clip_id in self._cache:
            self._cache.move_to_end(location.clip_id)
            return self._cache[location.clip_id]
        shard = storage.join(self.uri, ref.shard)
        frames = decode_clip(storage.read_bytes(shard, location.video_offset, location.video_bytes))
        if len(frames) != location.num_frames:
            raise RuntimeError(
                f"Clip {location.clip_id} in {shard} decoded to {len(frames)} frames, its entry "
                f"says {location.num_frames}: the shard is damaged. Write it again."
            )
        labels = None
        if location.labels_bytes:
            data = storage.read_bytes(shard, location.labels_offset, location.labels_bytes)
            labels = Labels.from_bytes(data)
        if frames.nbytes <= self._cache_bytes:
            self._cache[location.clip_id] = frames, labels
            self._cached_bytes += frames.nbytes
            while self._cached_bytes > self._cache_bytes:
                _, (old, _) = self._cache.popitem(last=False)
                self._cached_bytes -= old.nbytes
        return frames, labels


def _pad(array: np.ndarray, length: int) -> np.ndarray:
    if len(array) == length:
        return array
    padded = np.zeros((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded
