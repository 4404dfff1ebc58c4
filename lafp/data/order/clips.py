"""Decides which clips a step reads, and in which order.

The order of an epoch depends only on (seed, epoch) and the manifest. A step is a range of positions
in that order. So a **cursor is one number** (the step), any number of workers splits a step the
same way, and a resume loses no clip and reads none twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from lafp.config import ConfigError
from lafp.data.order.motion import MotionWeights, num_visits
from lafp.data.randomness import derive_seed, keyed_permutation
from lafp.data.shards.format import ClipLocation, Split
from lafp.data.shards.sets import read_manifest, read_shard_entry
from lafp.storage.map_ahead import map_ahead


@dataclass(frozen=True)
class ClipRef:
    """Describes one visit to one clip."""

    shard: str
    location: ClipLocation
    epoch: int
    """Number of the visit to the clip: the epoch, plus 2^32 for each further visit in an epoch."""
    shard_set: str


@dataclass(frozen=True, kw_only=True)
class ClipOrder:
    """Defines the endless, deterministic sequence of clip visits of a training run.

    An epoch permutes the shards, cuts them into pools of ``pool_shards`` and permutes the clips
    across each pool. So memory holds the index of one pool, not of the corpus, and two clips of one
    shard are a pool apart on average rather than side by side.
    """

    shard_set: str
    split: Split
    seed: int
    pool_shards: int = 16
    only_clips: frozenset[str] | None = None
    """Clip ids to visit; None visits the whole split. Used for small labeled subsets."""
    skipped_clips: frozenset[tuple[str, str]] = frozenset()
    """Shards and ids of clips to leave out, e.g. the few without latents."""
    motion_power: float = 0.0
    """Clips are visited in proportion to their motion to this power. If it is not 0, the number of
    a clip's visits in an epoch is its weight, randomly rounded up or down in each epoch."""
    _motion: MotionWeights | None = field(init=False, repr=False, compare=False)
    _shards: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shards = _read_manifest(self.shard_set, self.split)
        power, motion = self.motion_power, None
        if power and shards:
            motion = MotionWeights(self.shard_set, self.split, power)
        object.__setattr__(self, "_motion", motion)
        is_every = self.only_clips is not None or motion is not None
        skipping = {shard for shard, _ in self.skipped_clips}
        # Entries of other shards are not read now: the manifest counts their clips.
        counted = [name for name, _ in shards if is_every or name in skipping]
        counts = dict(zip(counted, map_ahead(self._num_visits, counted), strict=True))
        shards = [(name, counts.get(name, num)) for name, num in shards if counts.get(name, 1)]
        if not shards:
            raise ConfigError(f"No {self.split} clips in {self.shard_set}.")
        object.__setattr__(self, "_shards", tuple(shards))

    @property
    def num_clips(self) -> int:
        """Returns the number of visits per epoch: one per clip, unless clips are weighted."""
        return sum(count for _, count in self._shards)

    @property
    def shard_sets(self) -> tuple[str, ...]:
        """Returns the URIs of the visited shard sets."""
        return (self.shard_set,)

    def visits(self, start: int = 0) -> Iterator[ClipRef]:
        """Yields endless visits from position ``start`` of the sequence."""
        epoch, skip = divmod(start, self.num_clips)
        while True:
            yield from self._epoch(epoch, skip)
            epoch, skip = epoch + 1, 0

    def _epoch(self, epoch: int, skip: int) -> Iterator[ClipRef]:
        """Yields the visits of an epoch from its position ``skip`` on."""
        order = keyed_permutation(len(self._shards), self.seed, epoch)
        for first in range(0, len(order), self.pool_shards):
            pool = [self._shards[i] for i in order[first : first + self.pool_shards]]
            size = sum(count for _, count in pool)
            # The manifest holds the counts, so a late start reads no entries of the pools before
            # it.
            if skip >= size:
                skip -= size
                continue
            of_shards = map_ahead(partial(self._refs, epoch=epoch), (name for name, _ in pool))
            refs = list(chain.from_iterable(of_shards))
            if len(refs) != size:
                raise ConfigError(
                    f"{self.shard_set}: manifest.parquet counts {size} clips in {pool[0][0]} and "
                    f"its next shards, their entries list {len(refs)}. Copy the shard set again."
                )
            for i in keyed_permutation(size, self.seed, epoch, first + 1)[skip:]:
                yield refs[i]
            skip = 0

    def _refs(self, shard: str, epoch: int) -> list[ClipRef]:
        """Lists the visits to one shard in an epoch, in the shard's order."""
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
        return [c for c in clips if (shard, c.clip_id) not in self.skipped_clips]


def _read_manifest(uri: str, split: str) -> list[tuple[str, int]]:
    rows = read_manifest(uri, ["shard", "split", "num_clips"])
    return sorted((row["shard"], row["num_clips"]) for row in rows if row["split"] == split)
