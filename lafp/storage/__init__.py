"""Files by URI: a local path or ``s3://bucket/key``. Writes are atomic in both worlds.

S3 goes through boto3, so credentials, region and ``AWS_ENDPOINT_URL`` (MinIO, Ceph, R2 ...) work
the standard way. URIs are ``str``: ``pathlib`` would turn ``s3://b/k`` into ``s3:/b/k``.
``lafp.storage.names`` says how a local name that is not UTF-8 becomes a URI.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lafp.storage import local, s3
from lafp.storage.base import (
    AccessDeniedError,
    CredentialsError,
    FileInfo,
    FullError,
    NotAFileError,
    NotConditionalError,
    StorageError,
    UnreachableError,
)
from lafp.storage.names import escape_raw_bytes, path_of
from lafp.storage.patience import PATIENCE_S, be_patient, patiently

if TYPE_CHECKING:
    import pyarrow.fs

__all__ = [
    "PATIENCE_S",
    "AccessDeniedError",
    "CredentialsError",
    "FileInfo",
    "FullError",
    "NotAFileError",
    "NotConditionalError",
    "StorageError",
    "UnreachableError",
    "absolute",
    "be_patient",
    "delete",
    "delete_folder",
    "delete_version",
    "exists",
    "is_file",
    "is_http",
    "is_reachable",
    "is_s3",
    "join",
    "list_files",
    "list_folders",
    "local_file",
    "move_folder",
    "num_bytes",
    "open_file",
    "path_of",
    "patiently",
    "pyarrow_filesystem",
    "read_bytes",
    "read_text",
    "read_version",
    "swap",
    "upload",
    "uri_of",
    "write_bytes",
    "write_text",
]


def is_s3(uri: str) -> bool:
    """Whether ``uri`` names an S3 object or prefix."""
    return uri.startswith("s3://")


def is_http(uri: str) -> bool:
    """Whether ``uri`` names a file on the web. ``lafp.http.download`` fetches those."""
    return uri.startswith(("http://", "https://"))


def join(uri: str, *parts: str) -> str:
    """``uri`` and ``parts`` with single slashes between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def uri_of(path: str | os.PathLike[str]) -> str:
    """The URI that a user of the Python interface gave: text or a ``Path``, ``~`` expanded.

    A ``Path`` has merged the slashes of ``s3://``; they are put back.

    Raises:
        TypeError: It is neither.
    """
    uri = os.path.expanduser(os.fspath(path))
    return f"s3://{uri.removeprefix('s3:/')}" if re.match(r"s3:/[^/]", uri) else uri


def absolute(uri: str) -> str:
    """A URI that means the same in every working directory, hence on every Ray worker."""
    if is_s3(uri) or is_http(uri):
        return uri
    # ``~name`` may be a file of this name: only one's own home is meant.
    is_below_home = uri == "~" or uri.startswith("~/")
    path = Path(os.path.expanduser(uri) if is_below_home else uri)
    return escape_raw_bytes(str(path.absolute()))


def exists(uri: str) -> bool:
    """Whether ``uri`` is a file, or a folder or prefix that holds one."""
    if not is_s3(uri):
        return local.exists(uri)
    return is_file(uri) or next(list_files(uri), None) is not None


def is_file(uri: str) -> bool:
    """Whether ``uri`` is a file (an object), not a folder (a prefix)."""
    return s3.is_file(uri) if is_s3(uri) else local.is_file(uri)


def num_bytes(uri: str) -> int:
    """Size of the file at ``uri``."""
    return s3.num_bytes(uri) if is_s3(uri) else local.file_at(uri).stat().st_size


def is_reachable(uri: str) -> bool:
    """Whether the storage that ``uri`` lies in answers at all, now."""
    return not is_s3(uri) or s3.is_reachable(uri)


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """The file's bytes, or ``length`` of them from ``offset`` (a ranged GET on S3).

    Fewer where the file ends before.

    Raises:
        FileNotFoundError: There is no such file.
        NotAFileError: A folder, a pipe or a device is there.
        StorageError: S3 did not answer.
    """
    read = s3.read_bytes if is_s3(uri) else local.read_bytes
    return read(uri, offset, length)


def read_text(uri: str) -> str:
    """``read_bytes`` as UTF-8."""
    return read_bytes(uri).decode()


def open_file(uri: str) -> BinaryIO:
    """The file, open for reading anywhere in it; on S3 by ranges of 8 MiB.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: S3 did not answer, now or while reading.
    """
    return s3.open_file(uri) if is_s3(uri) else local.file_at(uri).open("rb")


def write_bytes(uri: str, data: bytes) -> None:
    """Writes the whole file or nothing: temporary name, then rename (S3: one PUT)."""
    write = s3.write_bytes if is_s3(uri) else local.write_bytes
    write(uri, data)


def write_text(uri: str, text: str) -> None:
    """``write_bytes`` of UTF-8."""
    write_bytes(uri, text.encode())


def read_version(uri: str) -> tuple[bytes, str] | None:
    """The file's bytes and the version that ``swap`` compares; None if there is no such file."""
    return s3.read_version(uri) if is_s3(uri) else local.read_version(uri)


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    """Writes a small file if it is still the version that was read: one of several writers wins.

    Args:
        uri: The file.
        data: Its new content, never the same as an earlier one.
        version: What ``read_version`` or ``swap`` gave; None where there was no such file.

    Returns:
        The new version. None if somebody else was first; then nothing was written.

    Raises:
        NotConditionalError: The object store has no conditional writes.
        StorageError: It could not be written.
    """
    return (s3.swap if is_s3(uri) else local.swap)(uri, data, version)


def delete_version(uri: str, version: str) -> None:
    """Deletes the file if it is still this version."""
    (s3.delete_version if is_s3(uri) else local.delete_version)(uri, version)


def upload(path: str | Path, uri: str) -> None:
    """Moves a finished local file to ``uri`` atomically. The local file is gone afterwards."""
    move = s3.upload if is_s3(uri) else local.upload
    move(path, uri)


@contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """A local path with the file's content: the file itself, or a copy that lives in the block."""
    if not is_s3(uri):
        yield local.file_at(uri)
        return
    with s3.local_file(uri) as path:
        yield path


def list_files(uri: str) -> Iterator[FileInfo]:
    """Every file under a folder or prefix, sorted by name, hidden ones left out.

    Streams: pages of 1,000 objects on S3, one directory at a time on disk. A missing folder holds
    nothing, and what is deleted meanwhile is left out. Links are followed. What is there but no
    file that can be looked at (a folder without permission, a link to nowhere or to a folder that
    it lies in, a pipe, a device) is listed with its ``error``.
    """
    return s3.list_files(uri) if is_s3(uri) else local.list_files(uri)


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a folder or prefix, sorted, hidden ones left out.

    Empty where there is nothing. Costs one request per 1,000 names on S3, whatever lies below.
    """
    names = s3.list_folders(uri) if is_s3(uri) else local.list_folders(uri)
    return sorted(name for name in names if not name.startswith("."))


def delete(uri: str) -> None:
    """Deletes a file; a missing one is no error."""
    if is_s3(uri):
        s3.delete(uri)
    else:
        path_of(uri).unlink(missing_ok=True)


def delete_folder(uri: str) -> None:
    """Deletes every file under a folder or prefix; a missing one is no error."""
    if not is_s3(uri):
        shutil.rmtree(path_of(uri), ignore_errors=True)
        return
    for info in list_files(uri):
        delete(info.uri)


def move_folder(uri: str, target: str, first: str) -> None:
    """Gives a folder another name in the same storage.

    Args:
        uri: The folder.
        target: Its new URI, where nothing is.
        first: File in it that goes first where files are moved one by one, as on S3: without it
            what is left must count for nothing.
    """
    if not is_s3(uri):
        local.move_folder(uri, target)
        return
    moved = {info.uri: join(target, info.uri.removeprefix(uri)) for info in list_files(uri)}
    for name, to in moved.items():
        s3.copy(name, to)
    for name in sorted(moved, key=lambda name: name != join(uri, first)):
        delete(name)


def pyarrow_filesystem(uri: str) -> "tuple[pyarrow.fs.FileSystem, str]":
    """The pyarrow file system and path of ``uri``, as Ray Train's ``RunConfig`` wants them."""
    import pyarrow.fs

    if is_s3(uri):
        return s3.pyarrow_filesystem(uri)
    return pyarrow.fs.LocalFileSystem(), str(path_of(absolute(uri)))
