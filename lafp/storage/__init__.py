"""Reads and writes files by URI: a local path, ``s3://``, ``gs://``, ``az://`` or ``hf://``.

Each object store is a module with the functions of ``lafp.storage.remote.Store``, and uses the
maker's client, so credentials and endpoints are given the standard way. Writes are atomic and may
be conditional (``swap``) everywhere but on the Hugging Face Hub, which is read only. URIs are
``str``, because ``pathlib`` would turn ``s3://b/k`` into ``s3:/b/k``.
``lafp.storage.names`` defines how a local name that is not UTF-8 becomes a URI.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lafp.storage import az, gs, hf, local, remote, s3
from lafp.storage.base import (
    AccessDeniedError,
    ChangedError,
    CredentialsError,
    FileInfo,
    FullError,
    NotAFileError,
    NotConditionalError,
    ObjectInfo,
    StorageError,
    UnreachableError,
)
from lafp.storage.map_ahead import map_ahead
from lafp.storage.names import path_of
from lafp.storage.patience import PATIENCE_S, be_patient, patient, patiently
from lafp.storage.uris import absolute, is_http, is_remote, join, uri_of

__all__ = [
    "PATIENCE_S",
    "AccessDeniedError",
    "ChangedError",
    "CredentialsError",
    "FileInfo",
    "FullError",
    "NotAFileError",
    "NotConditionalError",
    "ObjectInfo",
    "StorageError",
    "UnreachableError",
    "absolute",
    "be_patient",
    "delete",
    "delete_folder",
    "delete_version",
    "download_folder",
    "exists",
    "is_file",
    "is_http",
    "is_reachable",
    "is_remote",
    "join",
    "list_files",
    "list_folders",
    "local_file",
    "look_up",
    "move_folder",
    "num_bytes",
    "open_file",
    "path_of",
    "patient",
    "patiently",
    "read_bytes",
    "read_remote_through",
    "read_text",
    "read_version",
    "swap",
    "upload",
    "uri_of",
    "write_bytes",
    "write_text",
]


_STORES: dict[str, remote.Store] = {"s3": s3, "gs": gs, "az": az, "hf": hf}
_reader: remote.Reader | None = None


def read_remote_through(reader: remote.Reader) -> None:
    """Sets who reads object stores for this process, which otherwise does it itself."""
    global _reader
    _reader = reader


def _store(uri: str) -> remote.Store:
    return _STORES[uri.partition("://")[0]]


def _remote_reader(uri: str) -> remote.Reader:
    return _reader or _store(uri)


def exists(uri: str) -> bool:
    """Tells whether ``uri`` is a file or folder, or in an object store a prefix that holds one."""
    if not is_remote(uri):
        return local.exists(uri)
    return is_file(uri) or next(list_files(uri), None) is not None


def is_file(uri: str) -> bool:
    """Tells whether ``uri`` is a file (or an object), not a folder (a prefix)."""
    return _remote_reader(uri).is_file(uri) if is_remote(uri) else local.is_file(uri)


def num_bytes(uri: str) -> int:
    """Returns the size of the file at ``uri``."""
    return look_up(uri).num_bytes


def look_up(uri: str) -> ObjectInfo:
    """Returns size and version of the file at ``uri``."""
    return _remote_reader(uri).look_up(uri) if is_remote(uri) else local.look_up(uri)


def is_reachable(uri: str) -> bool:
    """Tells whether the storage of ``uri`` answers now. Local storage always does."""
    return not is_remote(uri) or _store(uri).is_reachable(uri)


def read_bytes(
    uri: str, offset: int = 0, length: int | None = None, version: str | None = None
) -> bytes:
    """Reads a file, or ``length`` bytes of it from ``offset`` on (of an object by a ranged GET).

    The result is shorter than ``length`` if the file ends earlier. Local files are read as they are
    now, whatever the version.

    Raises:
        ChangedError: The object has another version than the one that ``look_up`` returned.
        FileNotFoundError: There is no such file.
        NotAFileError: A folder, a pipe or a device is there.
        StorageError: The object store did not answer.
    """
    if is_remote(uri):
        return _remote_reader(uri).read_bytes(uri, offset, length, version)
    return local.read_bytes(uri, offset, length)


def read_text(uri: str) -> str:
    """Reads a whole file as UTF-8."""
    return read_bytes(uri).decode()


def open_file(uri: str) -> BinaryIO:
    """Opens a file for reading at any position; objects are read in ranges of 8 MiB.

    All ranges are of one version of an object, but on the Hugging Face Hub, whose files have none.

    Raises:
        FileNotFoundError: There is no such file.
        ChangedError: The object was overwritten after a part of it had been read.
        StorageError: The object store did not answer, now or while reading.
    """
    if is_remote(uri):
        return remote.open_file(uri, _remote_reader(uri))
    return local.file_at(uri).open("rb")


def write_bytes(uri: str, data: bytes) -> None:
    """Writes the whole file or nothing: to a temporary name, then renamed (objects: one PUT)."""
    write = _store(uri).write_bytes if is_remote(uri) else local.write_bytes
    write(uri, data)


def write_text(uri: str, text: str) -> None:
    """Writes text as UTF-8, the whole file or nothing."""
    write_bytes(uri, text.encode())


def read_version(uri: str) -> tuple[bytes, str] | None:
    """Returns the file's bytes and a version for ``swap``; None if there is no such file."""
    return _store(uri).read_version(uri) if is_remote(uri) else local.read_version(uri)


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    """Replaces a small file only if it still has the given version, so that one writer wins.

    Args:
        uri: The file.
        data: The new content, which must differ from every earlier content.
        version: The version that ``read_version`` or ``swap`` returned; None to create the file.

    Returns:
        The new version, or None if another writer was first and nothing was written.

    Raises:
        NotConditionalError: The object store has no conditional writes.
        StorageError: The file could not be written.
    """
    return (_store(uri).swap if is_remote(uri) else local.swap)(uri, data, version)


def delete_version(uri: str, version: str) -> None:
    """Deletes the file if it still has this version."""
    (_store(uri).delete_version if is_remote(uri) else local.delete_version)(uri, version)


def upload(path: str | Path, uri: str) -> None:
    """Moves a finished local file to ``uri`` atomically, and deletes the local file."""
    move = _store(uri).upload if is_remote(uri) else local.upload
    move(path, uri)


@contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """Yields a local path to the file. An object is downloaded, and deleted after the block."""
    if not is_remote(uri):
        yield local.file_at(uri)
        return
    with _remote_reader(uri).local_file(uri) as path:
        yield path


def download_folder(uri: str, folder: Path) -> None:
    """Copies every file under a prefix into a local folder, hidden files left out."""
    # ``list_files`` streams, and so cannot go on by itself after the store was away: it is asked
    # again.
    for info in patiently(lambda: list(list_files(uri))):
        path = folder / info.uri.removeprefix(uri).strip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        _store(uri).download(info.uri, path)


def list_files(uri: str) -> Iterator[FileInfo]:
    """Yields every file under a folder or prefix, sorted by name, without hidden files.

    The listing is streamed: pages of objects from a store, one directory at a time on disk. A
    missing folder counts as empty, files that are deleted meanwhile are skipped, and links are
    followed. An entry that cannot be read as a file (a folder without permission, a broken link, a
    link to a folder that contains it, a pipe, a device) is listed with its ``error``.
    """
    return _remote_reader(uri).list_files(uri) if is_remote(uri) else local.list_files(uri)


def list_folders(uri: str) -> list[str]:
    """Returns the sorted names of the folders directly below a folder, without hidden ones.

    A missing folder counts as empty. In an object store a call costs one request per page of names,
    however many objects lie below.
    """
    names = _store(uri).list_folders(uri) if is_remote(uri) else local.list_folders(uri)
    return sorted(name for name in names if not name.startswith("."))


def delete(uri: str) -> None:
    """Deletes a file, if it exists."""
    if is_remote(uri):
        _store(uri).delete(uri)
    else:
        path_of(uri).unlink(missing_ok=True)


def delete_folder(uri: str) -> None:
    """Deletes every file under a folder or prefix, if there are any."""
    if not is_remote(uri):
        shutil.rmtree(path_of(uri), ignore_errors=True)
        return
    _delete_all(info.uri for info in list_files(uri))


def _delete_all(uris: Iterable[str]) -> None:
    """Deletes files of an object store, many at a time."""
    for _ in map_ahead(delete, uris):
        pass


def move_folder(uri: str, target: str, first: str) -> None:
    """Renames a folder within its storage.

    Args:
        uri: The folder.
        target: The new URI, which must not exist.
        first: Name of the file in it to delete first in an object store, where files are moved one
            by one. If the move is interrupted, readers must ignore a folder that lacks this file.
    """
    if not is_remote(uri):
        local.move_folder(uri, target)
        return
    moved = {info.uri: join(target, info.uri.removeprefix(uri)) for info in list_files(uri)}
    # All copies exist before the first file goes, so a move that is cut off loses nothing.
    for _ in map_ahead(lambda pair: _store(uri).copy(*pair), moved.items()):
        pass
    delete(join(uri, first))
    _delete_all(name for name in moved if name != join(uri, first))
