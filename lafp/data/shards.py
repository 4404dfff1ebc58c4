"""Shards -> clips: which clips a step reads, and in which order.

The order of an epoch is a function of (seed, epoch) and the manifest alone. A step is a range of
positions in that order, so a **cursor is one number** (the step), any number of workers splits a
step the same way, and nothing is lost or read twice after a resume.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256

from lafp import storage
from lafp.config import ConfigError
from lafp.data.randomness import derive_seed, keyed_permutation
from lafp.data.sampling import MixedOrder, MotionWeights, num_visits
from lafp.data.shard_format import ClipLocation, ShardEntry, ShardSet, Split
from lafp.data.window_draws import WindowDraws


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
    draws: WindowDraws | None = None
    """All that the task cuts from these clips; None where it wants every frame."""


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
