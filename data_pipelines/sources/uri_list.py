"""Lists of URIs, as internet corpora come: ``.txt``, ``.csv``, ``.jsonl`` or ``.parquet``.

A list is read as a stream, once, from disk (one on S3 is copied there first), whatever its length.
"""

import csv
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.rows import VideoItem
from data_pipelines.stages.list_videos import video_item
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_KNOWN_SCHEMES = ("s3", "http", "https")
_BATCH_ROWS = 8192


def is_uri_list(source: str) -> bool:
    """Whether a source is a list, by its name."""
    return _suffix(source) in _READERS and not storage.is_http(source)


def list_uris(
    source: str, split: Split | None, column: str, has_labels: bool
) -> Iterator[VideoItem]:
    """Yields the inputs that a list names, in its order.

    Rows without a usable URI, and repeated ones, are inputs too: they become reject rows. Sizes are
    not known: they are 0.

    Args:
        source: URI of the list, local or S3.
        split: The split that the source was given for.
        column: Name of the column with the URIs; unused for ``.txt``.
        has_labels: Whether ``x.mp4`` has its labels in ``x.npz`` beside it.

    Raises:
        ConfigError: The list is not there, is not of its format, has no such column or no rows.
    """
    folder, row = source.rpartition("/")[0], 0
    with _SeenUris() as seen:
        for row, raw in enumerate(_read(source, column), start=1):
            uri, reject = _resolve(raw, folder)
            if reject is None and not seen.add(uri):
                reject = "same_file", uri
            if reject is not None:
                details = {"reject": list(reject)}
                yield VideoItem(uri=f"{source}#{row}", num_bytes=0, split=split, details=details)
                continue
            yield video_item(uri, 0, split, has_labels)
    if not row:
        raise ConfigError(f"No URIs in {source}.")


def _resolve(raw: Any, folder: str) -> tuple[str, tuple[str, str] | None]:
    """The absolute URI, or reason and detail of a reject."""
    uri = raw.strip() if isinstance(raw, str) else ""
    if not uri:
        return "", ("bad_entry", f"no URI but {raw!r}")
    scheme = _SCHEME.match(uri)
    if scheme and scheme[1] not in _KNOWN_SCHEMES:
        return "", ("bad_entry", f"{uri} is neither local nor s3://, http:// or https://")
    if scheme or uri.startswith(("/", "~")):
        return storage.absolute(uri), None
    return storage.join(folder, uri), None


class _SeenUris:
    """A set of hashes on disk."""

    def __enter__(self) -> "_SeenUris":
        self._db = sqlite3.connect("")  # a temporary file of its own, cached in memory
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, uri: str) -> bool:
        """Whether it is new."""
        digest = hashlib.sha256(uri.encode(errors="surrogateescape")).digest()[:16]
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1


# ---------------------------------------------------------------------------------------------
# Formats: each yields what stands in the column, row by row.


def _read(source: str, column: str) -> Iterator[Any]:
    if not storage.is_file(source):
        raise ConfigError(f"No such file: {source}.")
    with storage.local_file(source) as path:
        yield from _rows(path, source, column)


def _rows(path: Path, source: str, column: str) -> Iterator[Any]:
    try:
        yield from _READERS[_suffix(source)](path, column)
    except _NoColumnError as error:
        found = ", ".join(error.args[0])
        raise ConfigError(
            f"{source} has no column {column!r}. It has: {found}. Set uri_column."
        ) from None
    except (csv.Error, pa.ArrowException, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is no {_suffix(source)} file: {error}.") from None


class _NoColumnError(Exception):
    """Its argument: the columns that there are."""


def _read_txt(path: Path, _: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        yield from (line for line in file if not line.isspace())


def _read_csv(path: Path, column: str) -> Iterator[str | None]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if column not in (rows.fieldnames or ()):
            raise _NoColumnError(rows.fieldnames or ())
        yield from (row[column] for row in rows)


def _read_jsonl(path: Path, column: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(line for line in file if not line.isspace()):
            try:
                row = json.loads(line)
            except ValueError:
                yield None
                continue
            found = isinstance(row, dict) and column in row
            if not found and not number:
                raise _NoColumnError(row if isinstance(row, dict) else ())
            yield row[column] if found else None


def _read_parquet(path: Path, column: str) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise _NoColumnError(file.schema_arrow.names)
        for batch in file.iter_batches(_BATCH_ROWS, columns=[column]):
            yield from batch.column(0).to_pylist()


_READERS: dict[str, Callable[[Path, str], Iterator[Any]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _suffix(uri: str) -> str:
    name = uri.rpartition("/")[2]
    return f".{name.rpartition('.')[2].lower()}" if "." in name else ""
