"""Opens finished shard sets, with which the clips of a source are compared (``filters.against``).

The clips of the sets lie in blocks with negative numbers, in the order of the config and of the
sets' manifests, and so have negative numbers themselves.
So they are earlier than all clips of the source, and the search, which keeps the earliest of equal
clips, drops those of the source.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.preprocess.clip.measure.signature import GRID, NUM_KEYS
from data_pipelines.preprocess.select.steps import column, first_number
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.clip_tables import clip_batches
from lafp.data.shards.format import signatures_name
from lafp.data.shards.sets import open_shard_set, read_manifest, shards_sha256
from lafp.storage.map_ahead import map_ahead
from lafp.storage.strict_json import DamagedError
from lafp.storage.tables import read_table

BLOCK_CLIPS = 2_048
"""Number of clips whose signatures and candidates are in the memory of a task."""
RANGES = pa.schema(
    {
        "shard_set": pa.string(),
        "shard": pa.string(),
        "split": pa.string(),
        "num_clips": pa.int64(),  # of the shard
        "row": pa.int64(),  # of the first clip of the range in the shard's table
        "num_rows": pa.int64(),
        "clip": pa.int64(),  # number of the first clip of the range
    }
)
"""Columns of tables that name ranges of clips. Each row is a range within one shard."""
_SHARDS = pa.schema(
    {
        "shard_set": pa.dictionary(pa.int32(), pa.string()),
        "shard": pa.string(),
        "split": pa.string(),
        "num_clips": pa.int64(),
    }
)
KNOWN = pa.schema(
    {
        "clip": pa.int64(),
        **{name: pa.string() for name in ("clip_id", "episode_id", "video_uri")},
        **{name: pa.string() for name in ("shard_set", "split")},
    }
)
"""Columns of ``described``."""


class FinishedSets:
    """Knows the clips of finished shard sets.

    Args:
        uris: The sets.
        block_clips: Number of clips of a block.

    Raises:
        ConfigError: A set is missing, not complete, or has no signatures.
    """

    def __init__(self, uris: Sequence[str] = (), block_clips: int = BLOCK_CLIPS) -> None:
        self.uris = tuple(uris)
        # In tables, because the rows of a million shards are half a gigabyte as Python objects.
        self._shards = pa.concat_tables([_SHARDS.empty_table(), *map(_manifest, uris)])
        self._ends = np.cumsum(column(self._shards, "num_clips"), dtype=np.int64)
        self._block_clips = block_clips
        self.num_clips = int(self._ends[-1]) if len(self._ends) else 0
        self.num_blocks = -(-self.num_clips // block_clips)

    @property
    def fingerprint(self) -> str:
        """Describes what the sets hold, wherever they lie; empty without sets."""
        if not self.uris:
            return ""
        digest = sha256("\n".join(map(shards_sha256, self.uris)).encode()).hexdigest()
        return f"{len(self.uris)} sets, {self.num_clips} clips, {digest[:12]}"

    def blocks(self) -> Iterator[tuple[int, pa.Table]]:
        """Yields the negative number of each block, and where its clips lie: ``RANGES``."""
        for block in range(self.num_blocks):
            number = block - self.num_blocks
            yield number, self._ranges(block * self._block_clips, first_number(number))

    def _ranges(self, begin: int, clip: int) -> pa.Table:
        """Returns where the clips of a block lie.

        Args:
            begin: Number of clips of all sets before it.
            clip: Number of its first clip.
        """
        end, found = min(begin + self._block_clips, self.num_clips), []
        first, last = np.searchsorted(self._ends, [begin, end - 1], side="right")
        rows = self._shards.slice(first, last + 1 - first).to_pylist()
        for number, row in enumerate(rows, start=first):
            start = int(self._ends[number]) - row["num_clips"]
            low, high = max(begin, start), min(end, int(self._ends[number]))
            if high > low:
                place = {"row": low - start, "num_rows": high - low, "clip": clip + low - begin}
                found.append(row | place)
        return pa.Table.from_pylist(found, RANGES)


def known_videos(uri: str) -> Iterator[pa.Table]:
    """Yields the videos that gave clips to a finished set: one row for each of their clips."""
    for batch in clip_batches(uri, ("video_id", "video_uri", "episode_id", "split")):
        yield pa.Table.from_batches([batch])


@contextmanager
def telling_damage() -> Iterator[None]:
    """Turns the damage of a set, found in the block, into a ConfigError that says what to do."""
    try:
        yield
    except DamagedError as error:
        raise ConfigError(f"filters.against: {error}. Copy the shard set again.") from None


def _manifest(uri: str) -> pa.Table:
    try:
        has_signatures = open_shard_set(uri).has_signatures
        manifest = read_manifest(uri, _SHARDS.names[1:])
    except ConfigError as error:
        raise ConfigError(f"filters.against: {error}") from None
    if not has_signatures:
        raise ConfigError(
            f"filters.against: {uri} has no signatures of its clips, so nothing can be compared "
            "with them. Make it again with filters.drop_duplicates=true, or leave it out."
        )
    names = map(signatures_name, manifest["shard"].to_pylist())
    wanted = pa.array(names, pa.string())
    files = (info.uri.rpartition("/")[2] for info in storage.list_files(uri))
    missing = wanted.filter(pc.invert(pc.is_in(wanted, pa.array(files, pa.string()))))
    if len(missing):
        name = storage.join(uri, missing[0].as_py())
        raise ConfigError(f"filters.against: {name} is missing. Copy the shard set again.")
    shards = manifest.cast(pa.schema(list(_SHARDS)[1:]))
    of_set = pa.array([uri] * len(shards), pa.string()).dictionary_encode()
    return shards.add_column(0, _SHARDS.field(0), of_set)


def known_signatures(ranges: pa.Table) -> pa.Table:
    """Reads the signatures of ranges of clips.

    Returns:
        ``clip``, sorted, ``video`` and ``signature``. Each clip counts as a video of its own,
        because clips of the sets are never compared with each other.

    Raises:
        DamagedError: A table is not the one of its shard.
    """
    rows = ranges.to_pylist()
    tables = list(map_ahead(_signatures, rows))
    empty = np.zeros(0, np.int64)
    clips = [np.arange(row["clip"], row["clip"] + row["num_rows"]) for row in rows]
    numbers = np.concatenate([empty, *clips])
    found = pa.chunked_array(tables, pa.large_binary())
    return pa.table({"clip": numbers, "video": numbers, "signature": found})


def _signatures(row: Mapping[str, Any]) -> pa.Array:
    found = _columns(row, ["signature"])["signature"].cast(pa.large_binary()).combine_chunks()
    # Signatures are bytes that came from elsewhere, and are cut by these sizes.
    rest = pc.subtract(pc.binary_length(found), 4 * NUM_KEYS).to_numpy(zero_copy_only=False)
    if not ((rest > 0) & (rest % GRID**2 == 0)).all():
        raise DamagedError(f"{_table_uri(row)} holds something else than signatures")
    return found


def described(ranges: pa.Table, clips: np.ndarray) -> pa.Table:
    """Says of some clips of these ranges which they are.

    Args:
        ranges: Ranges, in which all of the clips lie.
        clips: Numbers of the clips, sorted.

    Returns:
        The columns of ``KNOWN``.
    """
    rows = [row for row in ranges.to_pylist() if len(_within(row, clips))]
    tables = list(map_ahead(lambda row: _described(row, _within(row, clips)), rows))
    return pa.concat_tables([KNOWN.empty_table(), *tables])


def _within(row: Mapping[str, Any], clips: np.ndarray) -> np.ndarray:
    first, end = np.searchsorted(clips, [row["clip"], row["clip"] + row["num_rows"]])
    return clips[first:end]


def _described(row: Mapping[str, Any], clips: np.ndarray) -> pa.Table:
    names = ["clip_id", "episode_id", "video_uri"]
    found = _columns(row, names).take(clips - row["clip"])
    known = {"shard_set": [row["shard_set"]] * len(clips), "split": [row["split"]] * len(clips)}
    columns = {"clip": clips, **{name: found[name] for name in names}, **known}
    return pa.table(columns).select(KNOWN.names).cast(KNOWN)


def _columns(row: Mapping[str, Any], names: list[str]) -> pa.Table:
    """Reads columns of a range from the table beside its shard."""
    uri = _table_uri(row)
    try:
        table = read_table(uri, names)
    except FileNotFoundError:
        raise DamagedError(f"{uri} is missing") from None
    if len(table) != row["num_clips"] or any(found.null_count for found in table.columns):
        raise DamagedError(f"{uri} has {len(table)} rows for {row['num_clips']} clips")
    return table.slice(row["row"], row["num_rows"])


def _table_uri(row: Mapping[str, Any]) -> str:
    return storage.join(row["shard_set"], signatures_name(row["shard"]))
