"""Opens finished shard sets, reads their entries, and hashes their content."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import ShardEntry, ShardSet, check_shard_name, entry_name
from lafp.storage import strict_json
from lafp.storage.strict_json import DamagedError
from lafp.storage.tables import read_rows


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
    try:
        return strict_json.read(ShardSet, path)
    except ValueError as error:
        raise ConfigError(f"{error}. Write the shard set again, or copy it again.") from None


def read_manifest(uri: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Reads columns of ``manifest.parquet``, of which ``shard`` must be one.

    Raises:
        ConfigError: There is no finished shard set, its manifest is damaged, or a shard has a name
            that leads elsewhere.
    """
    open_shard_set(uri)  # a clear error when there is none
    path = storage.join(uri, "manifest.parquet")
    try:
        rows = read_rows(path, columns)
        for row in rows:
            check_shard_name(row["shard"])
            if not (isinstance(num_clips := row.get("num_clips", 0), int) and num_clips >= 0):
                raise ValueError(f"{row['shard']} has {num_clips} clips")
    except DamagedError as error:  # names the file
        raise ConfigError(f"{error}. Copy the shard set again.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}. Copy the shard set again.") from None
    return rows


def read_entry(uri: str, shard: str) -> ShardEntry:
    """Reads the entry of one shard: ``train-000000.json`` for ``train-000000.tar``.

    Raises:
        OSError: It is missing or cannot be read.
        ValueError: It is damaged, or the shard has a name that leads elsewhere.
    """
    return strict_json.read(ShardEntry, storage.join(uri, entry_name(check_shard_name(shard))))


@lru_cache(maxsize=256)
def read_shard_entry(uri: str, shard: str) -> ShardEntry:
    """Reads an entry of a set that does not change, for users: see ``read_entry``."""
    try:
        return read_entry(uri, shard)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{storage.join(uri, entry_name(shard))} is missing, so clips in {shard} cannot be "
            "found. Write the shard set again."
        ) from error
    except DamagedError as error:
        raise ConfigError(f"{error}. Write the shard set again, or copy it again.") from None


def videos_of_clips(uri: str, clip_ids: Sequence[str]) -> dict[str, str]:
    """Maps clip ids to the ids of their source videos, from ``clips.parquet``."""
    filters = [("clip_id", "in", list(clip_ids))]
    columns = {"clip_id": str, "video_id": str}
    rows = read_rows(storage.join(uri, "clips.parquet"), columns, filters)
    return {row["clip_id"]: row["video_id"] for row in rows}


def shards_sha256(uri: str) -> str:
    """Hashes the checksums of a set's shards. The hash does not depend on where the set lies."""
    rows = read_manifest(uri, ["shard", "sha256"])
    lines = sorted(f"{row['shard']} {row['sha256']}" for row in rows)
    return sha256("\n".join(lines).encode()).hexdigest()
