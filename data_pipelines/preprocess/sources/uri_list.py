"""Reads lists of URIs of web corpora: ``.txt``, ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``.

A list of any length is read once, as a stream from disk (one on S3 is copied there first).
``list_rows`` reads the rows, this file makes inputs of them.
"""

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import unquote_to_bytes, urlsplit

from data_pipelines.preprocess.faults import rejected_item, video_error
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.file_kinds import (
    LABELS_SUFFIX,
    kind_of_name,
    labeled_format,
    suffix_of,
)
from data_pipelines.preprocess.sources.list_rows import Comment, list_suffix, read_rows
from data_pipelines.preprocess.sources.list_videos import (
    is_glob,
    list_source_files,
    list_videos,
    video_item,
)
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split
from lafp.storage.names import escape_raw_bytes, uri_of_name
from lafp.storage.secrets import text_without_secrets, without_secrets

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

_WHOLE_EPISODES = "holds whole episodes, which no list names: name it, or its folder, as the source"


def is_uri_list(source: str) -> bool:
    """Says whether a source is a list, by its name."""
    return bool(list_suffix(source)) and not storage.is_http(source)


def list_uris(
    source: str, split: Split | None, column: str, has_labels: bool
) -> Iterator[VideoItem | LeftOut]:
    """Yields the inputs that a list names, in its order.

    Rows without a usable URI, and repeated ones, are inputs too: they become reject rows. Sizes are
    unknown, so they are 0. The URI of an input has no signature or token (``secrets``).

    Args:
        source: URI of the list, local or S3.
        split: The split for which the user gave the source.
        column: Name of the column with the URIs; unused for ``.txt``.
        has_labels: Whether ``x.mp4`` has its labels in ``x.npz`` beside it.

    Raises:
        ConfigError: The list is missing, has another format, has no such column or has no rows.
    """
    folder, row = source.rpartition("/")[0], 0
    with _SeenUris() as seen:
        for row, raw in enumerate(read_rows(source, column), start=1):
            at = f"{source}#{row}"
            if isinstance(raw, Comment):
                yield LeftOut(uri=at, what="row of the list", why="a comment, which begins with #")
                continue
            for found in _inputs(raw, folder, split, has_labels):
                if isinstance(found, Refused):
                    yield rejected_item(at, split, found)
                elif isinstance(found, VideoItem) and not seen.add(found.secret_uri or found.uri):
                    yield rejected_item(at, split, Refused("same_file", found.uri, found.uri))
                elif isinstance(found, VideoItem) and found.secret_uri and not seen.add(found.uri):
                    # Two addresses may be equal without their secrets, if a secret names the file.
                    yield replace(found, uri=f"{found.uri}#@{row}")
                else:
                    yield found
    if not row:
        raise ConfigError(f"No URIs in {source}: the list has no rows. Write one row per video.")


def _inputs(
    raw: object, folder: str, split: Split | None, has_labels: bool
) -> Iterator[VideoItem | LeftOut | Refused]:
    """Yields the inputs that one row names: one, or all matches of its wildcards."""
    uri = _resolve(raw, folder)
    if isinstance(uri, Refused):
        yield uri
    elif is_glob(uri) and not storage.is_http(uri):
        yield from _matches(uri, split, has_labels)
    elif has_labels and (why := _why_without_labels(uri)):
        yield why
    else:
        item = video_item(without_secrets(uri), 0, split, has_labels)
        yield replace(item, secret_uri=uri) if item.uri != uri else item


def _why_without_labels(uri: str) -> Refused | None:
    """Returns a reject for a row whose labels cannot be read; None for others.

    Known before anything is downloaded.
    """
    if labeled_format(uri):
        return Refused("bad_entry", f"{without_secrets(uri)} {_WHOLE_EPISODES}")
    if storage.is_http(uri) and suffix_of(uri) != LABELS_SUFFIX:
        detail = (
            f"{without_secrets(uri)} is on the web, where labels beside videos are not read: "
            "download both, or leave `labels` out"
        )
        return Refused("no_labels", detail)
    return None


def _matches(
    pattern: str, split: Split | None, has_labels: bool
) -> Iterator[VideoItem | LeftOut | Refused]:
    try:
        if storage.is_file(pattern):  # a file whose own name has wildcard characters
            yield video_item(pattern, 0, split, has_labels)
            return
        is_empty = True
        for found in list_videos(list_source_files(pattern), split, has_labels):
            is_empty = False
            if isinstance(found, storage.FileInfo):
                what = kind_of_name(found.uri)
                yield LeftOut(uri=found.uri, what=what, why=_WHOLE_EPISODES)
            else:
                yield found
        if is_empty:
            yield Refused("not_found", f"no file matches {pattern}")
    except ConfigError:
        yield Refused("not_found", f"no file matches {pattern}")
    except Exception as error:
        failed = video_error(error)
        yield Refused(failed.reason, f"{pattern}: {failed.detail}")


def _resolve(raw: object, folder: str) -> str | Refused:
    """Returns the absolute URI of a row."""
    text = os.fsdecode(raw) if isinstance(raw, bytes) else raw
    uri = escape_raw_bytes(text.strip()) if isinstance(text, str) else ""
    if not uri:
        return Refused("bad_entry", text_without_secrets(f"expected a URI, got {raw!r}")[:200])
    if "\0" in uri or not _is_text(uri):
        detail = f"no file can have this name: {without_secrets(uri)!a}"
        return Refused("bad_entry", detail[:200])
    if scheme := _SCHEME.match(uri):
        return _with_scheme(scheme[1].lower(), uri[scheme.end() :])
    if uri.startswith(("/", "~/")):
        return storage.absolute(uri)
    return storage.join(folder, uri)


def _with_scheme(scheme: str, rest: str) -> str | Refused:
    uri = f"{scheme}://{rest}"
    if scheme in ("http", "https"):
        try:
            parts = urlsplit(uri)
            # Reading ``port`` is the check: it raises ValueError where there is no valid number.
            is_url = bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url:
            # Without the text: nobody knows which part of a broken URL is a password.
            return Refused("bad_entry", "it is not a valid http(s) URL")
        if "@" in parts.netloc:
            detail = f"{uri} has a user name or password, which is not sent: sign the URL instead"
            return Refused("bad_entry", detail)
        return uri
    if storage.is_remote(uri):
        is_object = bool(rest.partition("/")[0] and rest.partition("/")[2])
        if "@" in rest.partition("/")[0]:
            detail = f"{uri} holds keys, which are not read: set AWS_ACCESS_KEY_ID and the like"
            return Refused("bad_entry", detail)
        return uri if is_object else Refused("bad_entry", f"{uri} names no object in {scheme}://")
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host in ("", "localhost") and path:
            return uri_of_name(os.fsdecode(unquote_to_bytes(f"/{path}")))
        return Refused(
            "bad_entry", f"{uri} names no file of this machine: write file:///folder/name"
        )
    return Refused(
        "bad_entry", f"{uri} is neither local nor file://, s3://, gs://, az://, hf:// or http(s)://"
    )


def _is_text(uri: str) -> bool:
    try:
        uri.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can express
        return False
    return True


class _SeenUris:
    """Keeps a set of hashes on disk."""

    def __enter__(self) -> "_SeenUris":
        self._db = sqlite3.connect("")  # SQLite makes a temporary file, cached in memory
        # The table is thrown away in the end, so there is nothing to roll back.
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, uri: str) -> bool:
        """Adds a URI. Returns whether it is new."""
        # Hashes have one size, so the table is as large for long addresses as for short ones.
        digest = hashlib.sha256(uri.encode()).digest()[:16]
        return self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1
