"""Files by URI: a local path or ``s3://bucket/key``. Writes are atomic in both worlds.

S3 goes through boto3, so credentials, region and ``AWS_ENDPOINT_URL`` (MinIO, Ceph, R2 ...) work
the standard way. URIs are ``str``: ``pathlib`` would turn ``s3://b/k`` into ``s3:/b/k``.
"""

import io
import operator
import os
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlparse

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    ParamValidationError,
)
from botocore.exceptions import ConnectionError as EndpointError

if TYPE_CHECKING:
    import pyarrow.fs

_local = threading.local()
_patience_s = 0.0
PATIENCE_S = 180.0
"""How long workers wait for an S3 that is gone, before they fail."""
_NUM_READS = 3
T = TypeVar("T")
_READ_BYTES = 8 * 2**20
_LISTED_AT_ONCE = 50_000


class StorageError(OSError):
    """A read, write or listing failed. The message names the URI and the cause."""


class UnreachableError(StorageError):
    """The storage does not answer, or says that it cannot now. It may later."""


class AccessDeniedError(StorageError):
    """These credentials are good, but not for this file."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One listed file."""

    uri: str
    num_bytes: int


def be_patient(seconds: float = PATIENCE_S) -> None:
    """From now on, requests of this process wait so long for an S3 that has gone.

    For workers in the middle of a long job. Without it boto3's own retries must do, so that a wrong
    endpoint is told at once.
    """
    global _patience_s
    _patience_s = seconds


def patiently(request: Callable[[], T]) -> T:
    """Calls ``request`` again, at growing intervals, while storage is unreachable."""
    deadline = time.monotonic() + _patience_s
    pause_s = 0.5
    while True:
        try:
            return request()
        except UnreachableError:
            if time.monotonic() + pause_s > deadline:
                raise
        time.sleep(pause_s * random.uniform(0.75, 1.25))  # not all workers at once
        pause_s = min(2 * pause_s, 15.0)


def is_s3(uri: str) -> bool:
    """Whether ``uri`` names an S3 object or prefix."""
    return uri.startswith("s3://")


def is_http(uri: str) -> bool:
    """Whether ``uri`` names a file on the web. ``lafp.download`` fetches those."""
    return uri.startswith(("http://", "https://"))


def join(uri: str, *parts: str) -> str:
    """``uri`` and ``parts`` with single slashes between them."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """A URI that means the same in every working directory, hence on every Ray worker."""
    return uri if is_s3(uri) or is_http(uri) else str(Path(uri).expanduser().absolute())


def exists(uri: str) -> bool:
    """Whether ``uri`` is a file, or a folder or prefix that holds one."""
    if not is_s3(uri):
        return Path(uri).exists()
    return is_file(uri) or next(list_files(uri), None) is not None


def is_file(uri: str) -> bool:
    """Whether ``uri`` is a file (an object), not a folder (a prefix)."""
    if not is_s3(uri):
        return Path(uri).is_file()
    bucket, key = _split(uri)
    if not key or key.endswith("/"):
        return False
    try:
        _ask("look up", uri, lambda s3: s3.head_object(Bucket=bucket, Key=key))
    except FileNotFoundError:
        return False
    return True


def num_bytes(uri: str) -> int:
    """Size of the file at ``uri``."""
    if not is_s3(uri):
        return Path(uri).stat().st_size
    bucket, key = _split(uri)
    try:
        found = _ask("look up", uri, lambda s3: s3.head_object(Bucket=bucket, Key=key))
        return int(found["ContentLength"])
    except AccessDeniedError:
        read_bytes(uri, 0, 1)  # the answer to HEAD has no body that tells why: expired or forbidden
        raise


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """The file's bytes, or ``length`` of them from ``offset`` (a ranged GET on S3).

    Fewer where the file ends before.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: S3 did not answer.
    """
    if not is_s3(uri):
        with open(uri, "rb") as file:
            file.seek(offset)
            return file.read() if length is None else file.read(length)
    bucket, key = _split(uri)
    extra: dict[str, Any] = {}
    if offset or length is not None:
        extra["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))

    def read(s3: Any) -> bytes:
        for attempt in range(_NUM_READS):
            try:
                return bytes(s3.get_object(Bucket=bucket, Key=key, **extra)["Body"].read())
            except (HTTPClientError, IncompleteReadError):  # boto3 retries requests, not bodies
                if attempt == _NUM_READS - 1:
                    raise
            except ClientError as error:
                if error.response["Error"]["Code"] != "InvalidRange":
                    raise
                return b""  # beyond the end, as on a disk
        raise AssertionError(uri)

    return _ask("read", uri, read)


def open_file(uri: str) -> BinaryIO:
    """The file, open for reading anywhere in it; on S3 by ranges of 8 MiB.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: S3 did not answer, now or while reading.
    """
    return io.BufferedReader(_S3File(uri), _READ_BYTES) if is_s3(uri) else open(uri, "rb")


class _S3File(io.RawIOBase):
    """An object as a file."""

    def __init__(self, uri: str) -> None:
        self._uri, self._size, self._at = uri, num_bytes(uri), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        data = read_bytes(self._uri, self._at, length)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes the whole file or nothing: temporary name, then rename (S3: one PUT)."""
    if is_s3(uri):
        bucket, key = _split(uri)
        _ask("write", uri, lambda s3: s3.put_object(Bucket=bucket, Key=key, Body=data))
        return
    with _new_file(uri) as tmp:
        tmp.write_bytes(data)


def write_text(uri: str, text: str) -> None:
    """``write_bytes`` of UTF-8."""
    write_bytes(uri, text.encode())


def read_text(uri: str) -> str:
    """``read_bytes`` as UTF-8."""
    return read_bytes(uri).decode()


def upload(local: str | Path, uri: str) -> None:
    """Moves a finished local file to ``uri`` atomically. The local file is gone afterwards."""
    if is_s3(uri):
        bucket, key = _split(uri)
        from boto3.s3.transfer import TransferConfig

        one = TransferConfig(use_threads=False)
        _ask("write", uri, lambda s3: s3.upload_file(str(local), bucket, key, Config=one))
        Path(local).unlink()
        return
    with _new_file(uri) as tmp:
        shutil.move(local, tmp)  # across file systems this copies, so the rename comes after it


@contextmanager
def _new_file(uri: str) -> Iterator[Path]:
    """A path to write to, which takes its place on disk as ``uri`` after the block."""
    path = Path(uri)
    tmp = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield tmp
        with tmp.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        raise _failed("write", uri, error) from error
    finally:
        with suppress(OSError):
            tmp.unlink(missing_ok=True)


@contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """A local path with the file's content: the file itself, or a copy that lives in the block."""
    if not is_s3(uri):
        yield Path(uri)
        return
    bucket, key = _split(uri)
    with tempfile.TemporaryDirectory(prefix="lafp-") as tmp:
        path = Path(tmp) / Path(key).name
        _ask("read", uri, lambda s3: s3.download_file(bucket, key, str(path)))
        yield path


def list_files(uri: str) -> Iterator[FileInfo]:
    """Every file under a folder or prefix, sorted by name, hidden ones left out.

    Streams: pages of 1,000 objects on S3, one directory at a time on disk.
    """
    if not is_s3(uri):
        yield from _list_local(Path(uri))
        return
    bucket, prefix = _split(uri)
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    with _s3_errors("list", uri):
        for page in pages:
            for item in page.get("Contents", []):
                relative = item["Key"].removeprefix(prefix)
                hidden = any(part.startswith(".") for part in relative.split("/"))
                if not hidden and not relative.endswith("/"):
                    yield FileInfo(uri=f"s3://{bucket}/{item['Key']}", num_bytes=item["Size"])


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a folder or prefix, sorted, hidden ones left out.

    Empty where there is nothing. Costs one request per 1,000 names on S3, whatever lies below.
    """
    if not is_s3(uri):
        entries = os.scandir(uri) if Path(uri).is_dir() else ()
        names = [entry.name for entry in entries if entry.is_dir()]
    else:
        bucket, prefix = _split(uri)
        prefix = prefix.rstrip("/") + "/" if prefix else ""

        def prefixes(s3: Any) -> list[str]:
            paginator = s3.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
            return [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]

        found = _ask("list", uri, prefixes)
        names = [name.removeprefix(prefix).rstrip("/") for name in found]
    return sorted(name for name in names if not name.startswith("."))


def _list_local(folder: Path) -> Iterator[FileInfo]:
    for entry in _sorted_entries(folder):
        if entry.is_dir():
            yield from _list_local(Path(entry.path))
        elif entry.is_file():
            yield FileInfo(uri=entry.path, num_bytes=entry.stat().st_size)


def _sorted_entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, by name, hidden files left out.

    Memory is bounded: a folder of a million files is gone through some 20 times.
    """
    by_name = operator.attrgetter("name")
    last = ""
    while True:
        first: list[os.DirEntry[str]] = []
        highest = None
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name > last and (highest is None or name < highest) and name[0] != ".":
                    first.append(entry)
                    if len(first) == 2 * _LISTED_AT_ONCE:
                        first = sorted(first, key=by_name)[:_LISTED_AT_ONCE]
                        highest = first[-1].name
        first.sort(key=by_name)
        if highest is None:
            yield from first
            return
        yield from first[:_LISTED_AT_ONCE]
        last = first[_LISTED_AT_ONCE - 1].name


def delete(uri: str) -> None:
    """Deletes a file; a missing one is no error."""
    if not is_s3(uri):
        Path(uri).unlink(missing_ok=True)
        return
    bucket, key = _split(uri)
    _ask("delete", uri, lambda s3: s3.delete_object(Bucket=bucket, Key=key))


def delete_folder(uri: str) -> None:
    """Deletes every file under a folder or prefix; a missing one is no error."""
    if not is_s3(uri):
        shutil.rmtree(uri, ignore_errors=True)
        return
    for info in list_files(uri):
        delete(info.uri)


def pyarrow_filesystem(uri: str) -> "tuple[pyarrow.fs.FileSystem, str]":
    """The pyarrow file system and path of ``uri``, as Ray Train's ``RunConfig`` wants them."""
    import pyarrow.fs

    if not is_s3(uri):
        return pyarrow.fs.LocalFileSystem(), absolute(uri)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    options: dict[str, Any] = {}
    if endpoint:
        parsed = urlparse(endpoint)
        options = {"endpoint_override": parsed.netloc, "scheme": parsed.scheme}
    bucket, key = _split(uri)
    return pyarrow.fs.S3FileSystem(**options), f"{bucket}/{key}"


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise StorageError(f"{uri!r} names no bucket. Write it as s3://bucket/key.")
    return bucket, key


def _client() -> Any:
    """One client per thread: creating one costs about 50 ms, sharing sessions is not safe."""
    if not hasattr(_local, "client"):
        # Half of what a process needs to start, which those with local files are spared.
        import boto3
        from botocore.config import Config

        retries = Config(retries={"max_attempts": 8, "mode": "adaptive"})
        _local.client = boto3.session.Session().client("s3", config=retries)
    return _local.client


def _ask(verb: str, uri: str, request: Callable[[Any], T]) -> T:
    """``request`` of this thread's client, with errors in our words, as patiently as is set."""

    def ask() -> T:
        with _s3_errors(verb, uri):
            return request(_client())

    return patiently(ask)


@contextmanager
def _s3_errors(verb: str, uri: str) -> Iterator[None]:
    import boto3.exceptions

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            raise FileNotFoundError(f"No such object: {uri}") from error
        if error.response["Error"]["Code"] in ("403", "AccessDenied"):
            raise AccessDeniedError(f"Could not {verb} {uri}: {error}") from error
        if _is_server_error(error):
            raise UnreachableError(f"Could not {verb} {uri}: {error}") from error
        raise _failed(verb, uri, error) from error
    except ParamValidationError as error:  # no bucket can have this name
        raise FileNotFoundError(f"No such object: {uri}. {error}") from error
    except (HTTPClientError, EndpointError, IncompleteReadError) as error:
        # There was no connection, or it broke or timed out.
        raise UnreachableError(f"Could not {verb} {uri}: {error}") from error
    except (BotoCoreError, boto3.exceptions.Boto3Error) as error:
        if _is_server_error(error.__context__):  # boto3 wraps those of large uploads
            raise UnreachableError(f"Could not {verb} {uri}: {error}") from error
        raise _failed(verb, uri, error) from error


def _is_server_error(error: BaseException | None) -> bool:
    if not isinstance(error, ClientError):
        return False
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500


def _failed(verb: str, uri: str, error: Exception) -> StorageError:
    return StorageError(f"Could not {verb} {uri}: {error}")
