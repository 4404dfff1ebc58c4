"""Decides which clips a step reads, and in which order.

The order of an epoch depends only on (seed, epoch) and the manifest. A step is a range of positions
in that order. So a **cursor is one number** (the step), any number of workers splits a step the
same way, and a resume loses no clip and reads none twice.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np

from lafp.config import ConfigError
from lafp.data.order.motion import MotionWeights, motion_weights, num_visits
from lafp.data.randomness import derive_seed, keyed_permutation
from lafp.data.shards.clip_tables import among, clip_batches
from lafp.data.shards.format import ClipLocation, Split
from lafp.data.shards.sets import ShardCounts, read_shard_entry, shard_counts
from lafp.storage.columns import mask
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
    _shards: ShardCounts = field(init=False, repr=False, compare=False)
    """The shards to visit, with their visits in an epoch as their clips."""

    def __post_init__(self) -> None:
        shards, motion = shard_counts(self.shard_set, self.split), None
        if self.motion_power and len(shards.names):
            motion, visits = motion_weights(
                self.shard_set, self.split, self.motion_power, self.only_clips
            )
            shards = _with_visits(self.shard_set, shards, visits)
        elif self.only_clips is not None:
            visits = _count(self.shard_set, self.split, self.only_clips)
            shards = _with_visits(self.shard_set, shards, visits)
        object.__setattr__(self, "_motion", motion)
        if self.skipped_clips:
            shards = self._without_skipped(shards)
        if not len(shards.names):
            raise ConfigError(f"No {self.split} clips in {self.shard_set}.")
        object.__setattr__(self, "_shards", shards)

    def _without_skipped(self, shards: ShardCounts) -> ShardCounts:
        """Counts the visits to the shards with skipped clips by their entries, which are few."""
        skipping = {shard for shard, _ in self.skipped_clips}
        counted = [(n, name) for n, name in enumerate(shards.names.to_pylist()) if name in skipping]
        found = map_ahead(self._num_visits, (name for _, name in counted))
        visits, is_left = shards.num_clips.copy(), np.ones(len(shards.names), bool)
        for (number, _), count in zip(counted, found, strict=True):
            visits[number], is_left[number] = count, count > 0
        return ShardCounts(shards.names.filter(mask(is_left)), visits[is_left])

    @property
    def num_clips(self) -> int:
        """Returns the number of visits per epoch: one per clip, unless clips are weighted."""
        return int(self._shards.num_clips.sum())

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
        order = keyed_permutation(len(self._shards.names), self.seed, epoch)
        for first in range(0, len(order), self.pool_shards):
            pool = order[first : first + self.pool_shards]
            size = int(self._shards.num_clips[pool].sum())
            # The manifest holds the counts, so a late start reads no entries of the pools before
            # it.
            if skip >= size:
                skip -= size
                continue
            names = [self._shards.names[number].as_py() for number in pool.tolist()]
            refs = list(chain.from_iterable(map_ahead(partial(self._refs, epoch=epoch), names)))
            if len(refs) != size:
                raise ConfigError(
                    f"{self.shard_set}: {self._counted_by} counts {size} clips in {names[0]} and "
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

    @property
    def _counted_by(self) -> str:
        is_part = self._motion is not None or self.only_clips is not None
        return "its table of clips" if is_part else "manifest.parquet"

    def _num_visits(self, shard: str) -> int:
        clips = self._locations(shard)
        return round(self._motion.of(clips).sum()) if self._motion and clips else len(clips)

    def _locations(self, shard: str) -> list[ClipLocation]:
        clips = read_shard_entry(self.shard_set, shard).clips
        if self.only_clips is not None:
            clips = tuple(c for c in clips if c.clip_id in self.only_clips)
        return [c for c in clips if (shard, c.clip_id) not in self.skipped_clips]


def _count(uri: str, split: str, only_clips: frozenset[str]) -> dict[str, int]:
    """Counts the chosen clips of each shard that has some."""
    found = Counter[str]()
    for batch in clip_batches(uri, {"clip_id": str, "shard": str}, {"split": split}):
        found.update(batch["shard"].filter(among(batch["clip_id"], only_clips)).to_pylist())
    return found


def _with_visits(uri: str, shards: ShardCounts, visits: Mapping[str, int]) -> ShardCounts:
    """Returns the shards that are visited, with the number of their visits.

    Raises:
        ConfigError: The set's table of clips is not the one of its manifest.
    """
    names = shards.names.to_pylist()
    if unknown := visits.keys() - set(names):
        raise ConfigError(
            f"{uri}: the table of clips names shards that manifest.parquet does not, such as "
            f"{min(unknown)}. If a takedown of this set is "
            "under way or was interrupted, let it end, or run it again. Else copy the shard set "
            "again."
        )
    found = np.array([visits.get(name, 0) for name in names], np.int64)
    return ShardCounts(shards.names.filter(mask(found > 0)), found[found > 0])
