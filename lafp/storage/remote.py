"""Reads objects of any object store as local files are read, through requests for byte ranges."""

import io
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from lafp.storage.base import (
    ChangedError,
    CredentialsError,
    FileInfo,
    ObjectInfo,
    StorageError,
    UnreachableError,
)
from lafp.storage.names import safe_suffix
from lafp.storage.patience import patiently
from lafp.storage.temporary import TemporaryFolder

T = TypeVar("T")
# A file that is read in order costs one request for each of these pieces.
_READ_BYTES = 8 * 2**20


class Reader(Protocol):
    """Reads objects: a module of an object store, or an object that does it elsewhere."""

    def is_file(self, uri: str) -> bool:
        """See ``lafp.storage``, as for the other functions."""
        ...

    def look_up(self, uri: str) -> ObjectInfo:
        """Returns size and version. Raises FileNotFoundError if there is no such object."""
        ...

    def read_bytes(
        self, uri: str, offset: int, length: int | None, version: str | None = None
    ) -> bytes:
        """See ``lafp.storage``. Raises ChangedError if the object no longer has ``version``."""
        ...

    def list_files(self, uri: str) -> Iterator[FileInfo]: ...

    def local_file(self, uri: str) -> AbstractContextManager[Path]: ...


class Store(Protocol):
    """An object store, as ``lafp.storage`` uses it: see there for the meaning of each function."""

    def is_file(self, uri: str) -> bool: ...

    def look_up(self, uri: str) -> ObjectInfo: ...

    def read_bytes(
        self, uri: str, offset: int, length: int | None, version: str | None = None
    ) -> bytes: ...

    def list_files(self, uri: str) -> Iterator[FileInfo]: ...

    def local_file(self, uri: str) -> AbstractContextManager[Path]: ...

    def list_folders(self, uri: str) -> list[str]: ...

    def is_reachable(self, uri: str) -> bool: ...

    def download(self, uri: str, path: Path) -> None: ...

    def write_bytes(self, uri: str, data: bytes) -> None: ...

    def upload(self, local: str | Path, uri: str) -> None: ...

    def read_version(self, uri: str) -> tuple[bytes, str] | None: ...

    def swap(self, uri: str, data: bytes, version: str | None) -> str | None: ...

    def delete_version(self, uri: str, version: str) -> None: ...

    def delete(self, uri: str) -> None: ...

    def copy(self, uri: str, target: str) -> None:
        """Copies an object within its store, without downloading it."""
        ...


def open_file(uri: str, reader: Reader) -> BinaryIO:
    """Opens an object for reading at any position. All parts are those of one version."""
    return io.BufferedReader(_RangedFile(uri, reader), _READ_BYTES)


@contextmanager
def downloaded(uri: str, download: Callable[[str, Path], None]) -> Iterator[Path]:
    """Yields the path of a copy that is deleted after the block."""
    # On NFS a file that is still open elsewhere leaves something behind when it is deleted.
    with TemporaryFolder(ignore_cleanup_errors=True) as tmp:
        path = Path(tmp) / f"object{safe_suffix(uri)}"  # a key may be longer than a file name
        download(uri, path)
        yield path


def is_hidden(relative: str) -> bool:
    """Tells whether a key below a folder is hidden, or no file but the mark of a folder.

    Parts that begin with a dot are hidden, ``..`` among them, which would lead out of a folder.
    """
    # Some tools create empty objects whose names end in a slash to show folders.
    return relative.endswith("/") or any(part.startswith(".") for part in relative.split("/"))


def split(uri: str) -> tuple[str, str]:
    """Splits ``scheme://bucket/key``.

    Raises:
        StorageError: It names no bucket.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise StorageError(f"{uri!r} names no bucket. Write it as {scheme}://bucket/key.")
    return bucket, key


def split_folder(uri: str) -> tuple[str, str]:
    """Splits the URI of a folder into bucket and prefix."""
    bucket, key = split(uri)
    return bucket, key.rstrip("/") + "/" if key else ""


def swapped(
    read_version: Callable[[str], tuple[bytes, str] | None],
    uri: str,
    data: bytes,
    written: str | None,
) -> str | None:
    """Returns the version that a conditional write made, also if its answer was lost.

    Clients repeat a request whose answer was lost. The repeated one then fails, because the first
    one has already written our data.
    """
    if written is not None:
        return written
    found = read_version(uri)
    return found[1] if found and found[0] == data else None


def changed(uri: str) -> ChangedError:
    """Makes the error of a reader whose object was replaced."""
    return ChangedError(
        f"Could not read {uri}: it was overwritten while it was read. Run the command again."
    )


def delete_marked(
    swap: Callable[[str, bytes, str | None], str | None],
    delete: Callable[[str], None],
    uri: str,
    version: str,
) -> None:
    """Deletes this version of an object in a store that has no conditional deletes.

    The object is marked first by a conditional write. No other process replaces the mark before it
    is deleted, because a process that wants to take over a file watches it first.
    """
    if swap(uri, f"deleted {uuid.uuid4().hex}".encode(), version) is not None:
        delete(uri)


def answers(request: Callable[[], object]) -> bool:
    """Tells whether a store answers a request, if only with an error."""
    try:
        request()
    except (UnreachableError, CredentialsError):
        return False
    except OSError:  # any other error is an answer
        return True
    return True


def is_temporary(status: int) -> bool:
    """Tells whether a later request may succeed where this one got an HTTP status."""
    return status >= 500 or status in (408, 429)


class Requests:
    """Makes requests of one object store, and repeats them if this process is patient.

    Args:
        connected: Called with verb and URI. Yields the store's client, whose errors become those of
            ``lafp.storage.base`` in the block.
    """

    def __init__(self, connected: Callable[[str, str], AbstractContextManager[Any]]) -> None:
        self._connected = connected

    def __call__(self, verb: str, uri: str, request: Callable[[Any], T]) -> T:
        """Calls ``request`` with the client. ``verb`` and ``uri`` tell what failed."""

        def ask() -> T:
            with self._connected(verb, uri) as client:
                return request(client)

        return patiently(ask)


class PerProcess(Generic[T]):
    """Makes one client for all threads of this process, where a store's client may be shared.

    Threads of ``map_ahead`` are new in each call, and creating a client takes up to half a second.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._forget()
        # Connections of the parent must not be used, and a thread of it may hold the lock.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._client: T | None = None

    def __call__(self) -> T:
        """Returns the client, which the first call makes."""
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client


class Lent(Generic[T]):
    """Lends a client to one thread at a time, where sharing one is not safe.

    It makes as many clients as threads ask at once. They outlive the threads, as ``PerProcess``'s.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._free: list[T] = []

    @contextmanager
    def __call__(self) -> Iterator[T]:
        """Yields a client that no other thread has meanwhile."""
        try:
            client = self._free.pop()
        except IndexError:
            client = self._make()
        try:
            yield client
        finally:
            self._free.append(client)


class _RangedFile(io.RawIOBase):
    """Reads an object as a file."""

    def __init__(self, uri: str, reader: Reader) -> None:
        self._uri, self._reader, self._at = uri, reader, 0
        self._info = reader.look_up(uri)
        self._has_read = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = self._info.num_bytes
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def readall(self) -> bytes:
        # Python's own asks for 8 KiB at a time, and each would be a request.
        return self._next(max(0, self._info.num_bytes - self._at))

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._info.num_bytes - self._at)
        if length <= 0:
            return 0
        data = self._next(length)
        buffer[: len(data)] = data
        return len(data)

    def _next(self, length: int) -> bytes:
        try:
            data = self._part(length)
        except ChangedError:
            # Before anything was read, another version of this size serves as well. The store may
            # also have named a version that the object never had.
            info = self._reader.look_up(self._uri)
            if self._has_read or info.num_bytes != self._info.num_bytes:
                raise
            self._info = info
            data = self._part(length)
        self._has_read = True
        self._at += len(data)
        return data

    def _part(self, length: int) -> bytes:
        return self._reader.read_bytes(self._uri, self._at, length, self._info.version)
