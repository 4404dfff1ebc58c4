"""Implements ``lafp.storage`` for Google Cloud Storage. See there for each function's meaning.

An upload is one request or one resumable session, and the object appears when it is whole. Every
object has a generation, on which writes may depend, so ``swap`` and ``delete_version`` hold.
Credentials are Google's application default credentials; without any, objects are read as by a
stranger, which public buckets allow. ``STORAGE_EMULATOR_HOST`` names another endpoint.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lafp.storage.base import (
    FileInfo,
    ObjectInfo,
)
from lafp.storage.clients.gs import ask, connected
from lafp.storage.remote import (
    answers,
    changed,
    delete_marked,
    downloaded,
    is_hidden,
    split,
    split_folder,
    swapped,
)

_RETRY_S = 20.0
"""Time for which Google's client repeats a request. Beyond it ``patiently`` decides."""


def is_file(uri: str) -> bool:
    bucket, key = split(uri)
    # Some tools create empty objects of such names to show folders.
    if not key or key.endswith("/"):
        return False
    found = ask("look up", uri, lambda gs: gs.bucket(bucket).get_blob(key, retry=_retry()))
    return found is not None


def is_reachable(uri: str) -> bool:
    bucket, _ = split(uri)

    def look_up() -> None:
        with connected("look up", uri) as gs:
            gs.bucket(bucket).exists(retry=None)

    return answers(look_up)


def look_up(uri: str) -> ObjectInfo:
    bucket, key = split(uri)
    found = ask("look up", uri, lambda gs: gs.bucket(bucket).get_blob(key, retry=_retry()))
    if found is None:
        raise FileNotFoundError(f"No such object: {uri}")
    return ObjectInfo(num_bytes=int(found.size), version=str(found.generation))


def read_bytes(uri: str, offset: int, length: int | None, version: str | None = None) -> bytes:
    if length == 0:
        return b""
    # Google's ranges name their last byte. Without a range the client checks the object's checksum.
    begin = offset if offset or length is not None else None
    end = None if length is None else offset + length - 1

    def read(gs: Any) -> bytes:
        from google.api_core.exceptions import PreconditionFailed, RequestRangeNotSatisfiable

        try:
            # Raw, because Google would decompress objects of "Content-Encoding: gzip" while it
            # sends them, and their ranges and sizes are those of the stored bytes.
            return bytes(
                _blob(gs, uri).download_as_bytes(
                    start=begin,
                    end=end,
                    raw_download=True,
                    if_generation_match=None if version is None else int(version),
                    retry=_retry(),
                )
            )
        except PreconditionFailed:
            raise changed(uri) from None
        except RequestRangeNotSatisfiable:
            return b""  # beyond the end, as on a disk

    return ask("read", uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    ask("write", uri, lambda gs: _put(_blob(gs, uri), data))


def read_version(uri: str) -> tuple[bytes, str] | None:
    def read(gs: Any) -> tuple[bytes, str]:
        blob = _blob(gs, uri)
        data = blob.download_as_bytes(raw_download=True, retry=_retry())
        # The answer that holds the bytes names their generation.
        return bytes(data), str(blob.generation)

    try:
        return ask("read", uri, read)
    except FileNotFoundError:
        return None


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    def put(gs: Any) -> str | None:
        from google.api_core.exceptions import PreconditionFailed

        blob = _blob(gs, uri)
        try:
            # Generation 0 stands for an object that does not exist.
            _put(blob, data, if_generation_match=int(version or 0))
        except PreconditionFailed:
            return None
        return str(blob.generation)

    return swapped(read_version, uri, data, ask("write", uri, put))


def delete_version(uri: str, version: str) -> None:
    # Google's deletes may be conditional, but those of its emulators are not.
    delete_marked(swap, delete, uri, version)


def upload(local: str | Path, uri: str) -> None:
    ask("write", uri, lambda gs: _blob(gs, uri).upload_from_filename(str(local), retry=_retry()))
    Path(local).unlink()


def download(uri: str, path: Path) -> None:
    def get(gs: Any) -> None:
        _blob(gs, uri).download_to_filename(str(path), raw_download=True, retry=_retry())

    ask("read", uri, get)


def local_file(uri: str) -> AbstractContextManager[Path]:
    return downloaded(uri, download)


def list_files(uri: str) -> Iterator[FileInfo]:
    bucket, prefix = split_folder(uri)
    with connected("list", uri) as gs:
        for blob in gs.list_blobs(bucket, prefix=prefix or None, retry=_retry()):
            if not is_hidden(blob.name.removeprefix(prefix)):
                yield FileInfo(uri=f"gs://{bucket}/{blob.name}", num_bytes=int(blob.size))


def list_folders(uri: str) -> list[str]:
    bucket, prefix = split_folder(uri)

    def prefixes(gs: Any) -> list[str]:
        blobs = gs.list_blobs(bucket, prefix=prefix or None, delimiter="/", retry=_retry())
        return [name for page in blobs.pages for name in page.prefixes]

    return [name.removeprefix(prefix).rstrip("/") for name in ask("list", uri, prefixes)]


def delete(uri: str) -> None:
    def remove(gs: Any) -> None:
        from google.api_core.exceptions import NotFound

        try:
            _blob(gs, uri).delete(retry=_retry())
        except NotFound:
            return

    ask("delete", uri, remove)


def copy(uri: str, target: str) -> None:
    def rewrite(gs: Any) -> None:
        source, token = _blob(gs, uri), ""
        # Google copies a large object in several calls.
        while token is not None:
            token, _, _ = _blob(gs, target).rewrite(source, token=token or None, retry=_retry())

    ask("copy", uri, rewrite)


def _blob(gs: Any, uri: str) -> Any:
    bucket, key = split(uri)
    if not key:
        raise FileNotFoundError(f"No such object: {uri}")
    return gs.bucket(bucket).blob(key)


def _put(blob: Any, data: bytes, **condition: int) -> None:
    kind = "application/octet-stream"
    blob.upload_from_string(data, content_type=kind, retry=_retry(), **condition)


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_RETRY_S)
