"""Reads the rows of a set's clips, which lie in several files of bounded size.

A reader opens one file after the other, and names the columns and the rows that it needs. So no
reader holds the rows of a corpus in memory. Of a set in an object store, one file at a time is on
the local disk; `lafp view` and `to-lerobot` copy all of them.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.sets import open_shard_set
from lafp.storage.columns import mask
from lafp.storage.tables import Columns, iter_batches, iter_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

FOLDER = "clips"
ROWS_PER_FILE = 500_000
"""About 90 MB: small beside a disk, and many times what a request to an object store costs."""


def clip_file(number: int) -> str:
    """Names a file of the table of clips, relative to the shard set."""
    return f"{FOLDER}/part-{number:05d}.parquet"


def num_clip_files(num_clips: int) -> int:
    """Returns the number of files that hold the rows of so many clips."""
    return max(1, -(-num_clips // ROWS_PER_FILE))


def clip_files(shards: str) -> Iterator[str]:
    """Yields the URIs of the files that hold a set's clips, in the order of the shards.

    Raises:
        ConfigError: There is no finished shard set, or one of the files is missing.
    """
    for number in range(open_shard_set(shards).num_clip_files):
        uri = storage.join(shards, clip_file(number))
        if not storage.is_file(uri):
            raise ConfigError(f"{uri} is missing. Write the shard set again, or copy it again.")
        yield uri


def clip_batches(
    shards: str, columns: Columns, equal: Mapping[str, str | bool] | None = None
) -> "Iterator[pa.RecordBatch]":
    """Yields columns of a set's clips, some thousand clips at a time. See ``iter_batches``."""
    for uri in clip_files(shards):
        yield from iter_batches(uri, columns, equal)


def clip_rows(
    shards: str, columns: Sequence[str], wanted: "pc.Expression | None" = None
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a set's clips, with a few thousand in memory. See ``iter_rows``."""
    for uri in clip_files(shards):
        yield from iter_rows(uri, columns, wanted)


def among(clip_ids: "pa.Array", wanted: Container[str]) -> "pa.BooleanArray":
    """Says which of the ids are wanted."""
    return mask(np.array([clip_id in wanted for clip_id in clip_ids.to_pylist()], bool))


def rows_of_clips(
    shards: str, clip_ids: Sequence[str], columns: Mapping[str, type]
) -> list[dict[str, Any]]:
    """Returns the rows of the clips with these ids, as many as the set has.

    Args:
        shards: URI of the shard set.
        clip_ids: The ids.
        columns: ``clip_id`` and more columns, with the types of their values.
    """
    wanted, found = set(clip_ids), []
    for batch in clip_batches(shards, columns):
        found += batch.filter(among(batch["clip_id"], wanted)).to_pylist()
    return found


def videos_of_clips(shards: str, clip_ids: Sequence[str]) -> dict[str, str]:
    """Maps clip ids to the ids of their source videos."""
    rows = rows_of_clips(shards, clip_ids, {"clip_id": str, "video_id": str})
    return {row["clip_id"]: row["video_id"] for row in rows}
