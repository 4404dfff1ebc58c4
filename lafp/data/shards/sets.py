"""Opens finished shard sets, reads their entries, and hashes their content."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import ShardEntry, ShardSet, check_shard_name, entry_name
from lafp.storage import strict_json
from lafp.storage.columns import is_equal, numbers
from lafp.storage.strict_json import DamagedError
from lafp.storage.tables import read_table

if TYPE_CHECKING:
    import pyarrow as pa

_MANIFEST = "manifest.parquet"
_LINES_AT_ONCE = 65_536
_TYPES = {
    "shard": str, "split": str, "num_clips": int, "num_frames": int, "num_bytes": int,
    "sha256": str,
}  # fmt: skip
_MOST_CLIPS = 2**53  # floats count exactly up to there
# The rule of ``check_shard_name`` in the words of pyarrow, whose \w is ASCII.
_SHARD_NAME = r"\A\w[\w.-]*\.tar\z"


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


def read_manifest(uri: str, columns: Sequence[str]) -> "pa.Table":
    """Reads columns of ``manifest.parquet``, of which ``shard`` must be one.

    Raises:
        ConfigError: There is no finished shard set, its manifest is damaged, or a shard has a name
            that leads elsewhere.
    """
    spec = open_shard_set(uri)  # a clear error when there is none
    path = storage.join(uri, _MANIFEST)
    try:
        table = read_table(path, {name: _TYPES[name] for name in columns})
        _check(table, sum(spec.num_clips.values()))
    except DamagedError as error:  # names the file
        raise ConfigError(f"{error}. Copy the shard set again.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}. Copy the shard set again.") from None
    return table


def _check(manifest: "pa.Table", max_clips: int) -> None:
    """Raises ValueError if a name or a number cannot be that of a shard."""
    import pyarrow.compute as pc

    for name, column in zip(manifest.column_names, manifest.columns, strict=True):
        if column.null_count:
            raise ValueError(f"it has rows without {name}")
    is_sound = pc.match_substring_regex(manifest["shard"], _SHARD_NAME)
    for name in manifest["shard"].filter(pc.invert(is_sound)).slice(0, 1).to_pylist():
        check_shard_name(name)
    if "num_clips" in manifest.column_names:
        num_clips = numbers(manifest["num_clips"])
        if (num_clips < 0).any():
            number = int(num_clips.argmin())
            shard = manifest["shard"][number].as_py()
            raise ValueError(f"{shard} has {num_clips[number]} clips")
        # The sum of broken numbers may be more than an integer holds, but not than a float does.
        if (num_all := num_clips.astype(float).sum()) > min(max_clips, _MOST_CLIPS):
            raise ValueError(f"it counts {num_all:g} clips, shard_set.json {max_clips}")


@dataclass(frozen=True)
class ShardCounts:
    """Names the shards of a split, sorted, and counts their clips."""

    names: "pa.Array"
    """Strings [N]."""
    num_clips: np.ndarray
    """int64 [N]."""


def shard_counts(uri: str, split: str) -> ShardCounts:
    """Counts the clips of each shard of a split.

    Raises:
        ConfigError: See ``read_manifest``.
    """
    return _manifest(uri).of_split(split)


def shards_sha256(uri: str) -> str:
    """Hashes the checksums of a set's shards. The hash does not depend on where the set lies."""
    return _manifest(uri).sha256


class _Manifest:
    """Holds what every job asks of a manifest: 30 bytes per shard, and a hash."""

    def __init__(self, uri: str) -> None:
        table = read_manifest(uri, ("shard", "split", "num_clips", "sha256"))
        self.sha256 = _hash(table)
        self._of_split = {
            split: _counts(table, split) for split in table["split"].unique().to_pylist()
        }
        nothing = table.slice(0, 0)["shard"].combine_chunks()
        self._none = ShardCounts(nothing, np.zeros(0, np.int64))

    def of_split(self, split: str) -> ShardCounts:
        return self._of_split.get(split, self._none)


def _hash(manifest: "pa.Table") -> str:
    """Hashes the lines ``shard sha256``, sorted and divided by line ends."""
    import pyarrow.compute as pc

    columns = ("shard", "sha256")
    rows, digest = manifest.select(columns).combine_chunks(), sha256()
    order = pc.sort_indices(rows, [(name, "ascending") for name in columns])
    # Piece by piece, because a million lines as strings of Python take 150 MB.
    for first in range(0, len(rows), _LINES_AT_ONCE):
        of_piece = rows.take(order.slice(first, _LINES_AT_ONCE))
        pairs = zip(*(of_piece[name].to_pylist() for name in columns), strict=True)
        text = "\n".join(f"{shard} {checksum}" for shard, checksum in pairs)
        digest.update(f"\n{text}".encode() if first else text.encode())
    return digest.hexdigest()


def _counts(manifest: "pa.Table", split: str) -> ShardCounts:
    columns = manifest.select(("shard", "num_clips"))
    found = columns.filter(is_equal(manifest["split"], split)).sort_by("shard")
    return ShardCounts(
        found["shard"].combine_chunks(), numbers(found["num_clips"]).astype(np.int64)
    )


def _manifest(uri: str) -> _Manifest:
    """Reads a manifest, unless this process knows it as it is now.

    A job asks some ten times for it, and that of a million shards has 70 MB.
    """
    open_shard_set(uri)  # a clear error when there is none
    version = storage.look_up(storage.join(uri, _MANIFEST)).version
    return _Manifest(uri) if version is None else _known_manifest(uri, version)


@lru_cache(maxsize=4)
def _known_manifest(uri: str, version: str) -> _Manifest:
    return _Manifest(uri)


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
