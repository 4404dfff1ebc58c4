"""Implements ``lafp.storage`` for Google Cloud Storage. See there for each function's meaning.

An upload is one request or one resumable session, and the object appears when it is whole. Every
object has a generation, on which writes may depend, so ``swap`` and ``delete_version`` hold.
Credentials are Google's application default credentials; without any, objects are read as by a
stranger, which public buckets allow. ``STORAGE_EMULATOR_HOST`` names another endpoint.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lafp.storage.base import (
    AccessDeniedError,
    CredentialsError,
    FileInfo,
    FullError,
    ObjectInfo,
    StorageError,
    UnreachableError,
    failed,
)
from lafp.storage.remote import (
    PerThread,
    Requests,
    answers,
    changed,
    delete_marked,
    downloaded,
    is_hidden,
    is_temporary,
    split,
    split_folder,
    swapped,
)
from lafp.storage.secrets import text_without_secrets

T = TypeVar("T")
_RETRY_S = 20.0
"""Time for which Google's client repeats a request. Beyond it ``patiently`` decides."""
_SET_CREDENTIALS = (
    "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the "
    "file of a service account."
)


def is_file(uri: str) -> bool:
    bucket, key = split(uri)
    # Some tools create empty objects of such names to show folders.
    if not key or key.endswith("/"):
        return False
    found = _ask("look up", uri, lambda gs: gs.bucket(bucket).get_blob(key, retry=_retry()))
    return found is not None


def is_reachable(uri: str) -> bool:
    bucket, _ = split(uri)

    def look_up() -> None:
        with _gs_errors("look up", uri):
            _client().bucket(bucket).exists(retry=None)

    return answers(look_up)


def look_up(uri: str) -> ObjectInfo:
    bucket, key = split(uri)
    found = _ask("look up", uri, lambda gs: gs.bucket(bucket).get_blob(key, retry=_retry()))
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

    return _ask("read", uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    _ask("write", uri, lambda gs: _put(_blob(gs, uri), data))


def read_version(uri: str) -> tuple[bytes, str] | None:
    def read(gs: Any) -> tuple[bytes, str]:
        blob = _blob(gs, uri)
        data = blob.download_as_bytes(raw_download=True, retry=_retry())
        # The answer that holds the bytes names their generation.
        return bytes(data), str(blob.generation)

    try:
        return _ask("read", uri, read)
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

    return swapped(read_version, uri, data, _ask("write", uri, put))


def delete_version(uri: str, version: str) -> None:
    # Google's deletes may be conditional, but those of its emulators are not.
    delete_marked(swap, delete, uri, version)


def upload(local: str | Path, uri: str) -> None:
    _ask("write", uri, lambda gs: _blob(gs, uri).upload_from_filename(str(local), retry=_retry()))
    Path(local).unlink()


def download(uri: str, path: Path) -> None:
    def get(gs: Any) -> None:
        _blob(gs, uri).download_to_filename(str(path), raw_download=True, retry=_retry())

    _ask("read", uri, get)


def local_file(uri: str) -> AbstractContextManager[Path]:
    return downloaded(uri, download)


def list_files(uri: str) -> Iterator[FileInfo]:
    bucket, prefix = split_folder(uri)
    with _gs_errors("list", uri):
        for blob in _client().list_blobs(bucket, prefix=prefix or None, retry=_retry()):
            if not is_hidden(blob.name.removeprefix(prefix)):
                yield FileInfo(uri=f"gs://{bucket}/{blob.name}", num_bytes=int(blob.size))


def list_folders(uri: str) -> list[str]:
    bucket, prefix = split_folder(uri)

    def prefixes(gs: Any) -> list[str]:
        blobs = gs.list_blobs(bucket, prefix=prefix or None, delimiter="/", retry=_retry())
        return [name for page in blobs.pages for name in page.prefixes]

    return [name.removeprefix(prefix).rstrip("/") for name in _ask("list", uri, prefixes)]


def delete(uri: str) -> None:
    def remove(gs: Any) -> None:
        from google.api_core.exceptions import NotFound

        try:
            _blob(gs, uri).delete(retry=_retry())
        except NotFound:
            return

    _ask("delete", uri, remove)


def copy(uri: str, target: str) -> None:
    def rewrite(gs: Any) -> None:
        source, token = _blob(gs, uri), ""
        # Google copies a large object in several calls.
        while token is not None:
            token, _, _ = _blob(gs, target).rewrite(source, token=token or None, retry=_retry())

    _ask("copy", uri, rewrite)


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


def _new_client() -> Any:
    # Imported late, as boto3 is in ``lafp.storage.s3``.
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    try:
        # Reading and writing objects needs no project, but the client asks for one.
        return storage.Client(project="unused")
    except DefaultCredentialsError:
        return storage.Client.create_anonymous_client()


_client = PerThread(_new_client)


@contextmanager
def _gs_errors(verb: str, uri: str) -> Iterator[None]:
    try:
        from google.api_core import exceptions as gs_errors
        from google.auth import exceptions as auth_errors
        from google.cloud.storage import exceptions as transfer_errors
        from requests.exceptions import RequestException
    except ModuleNotFoundError as error:
        raise StorageError(
            f"Could not {verb} {uri}: gs:// needs the package google-cloud-storage. "
            f"Install it with: pip install 'lafp[gcs]' (no module {error.name})"
        ) from None
    try:
        yield
    except gs_errors.RetryError as error:  # the last error is its cause
        raise UnreachableError(f"Could not {verb} {uri}: {_words(error.cause or error)}") from error
    except gs_errors.GoogleAPICallError as error:
        raise _translated(verb, uri, error) from error
    except auth_errors.TransportError as error:
        raise UnreachableError(f"Could not {verb} {uri}: {_words(error)}") from error
    except auth_errors.GoogleAuthError as error:
        raise CredentialsError(
            f"Could not {verb} {uri}: {_words(error)}. {_SET_CREDENTIALS}"
        ) from error
    except (RequestException, ConnectionError, transfer_errors.DataCorruption) as error:
        raise UnreachableError(f"Could not {verb} {uri}: {_words(error)}") from error
    except transfer_errors.InvalidResponse as error:
        raise failed(verb, uri, error) from error
    except ValueError as error:  # no bucket can have this name
        raise FileNotFoundError(f"No such object: {uri}. {_words(error)}") from error


_ask = Requests(lambda: _client(), _gs_errors)


def _words(error: BaseException) -> str:
    return text_without_secrets(" ".join(str(error).split()))[:500]


def _translated(verb: str, uri: str, error: Any) -> OSError:
    """Translates an answer of Google's into one of ``lafp.storage.base``."""
    text = f"Could not {verb} {uri}: {_words(error)}"
    code = int(error.code or 0)
    if code == 404:
        if verb in ("list", "write") or "bucket does not exist" in str(error):
            return StorageError(
                f"Could not {verb} {uri}: there is no such bucket. Correct its name, or make it on "
                "Google Cloud first."
            )
        return FileNotFoundError(f"No such object: {uri}")
    if code == 401:
        return CredentialsError(f"{text} {_SET_CREDENTIALS}")
    if code == 403:
        return AccessDeniedError(text)
    if code == 507 or "quotaExceeded" in str(error):
        return FullError(f"{text} Make room there.")
    if is_temporary(code):
        return UnreachableError(text)
    return failed(verb, uri, error)
