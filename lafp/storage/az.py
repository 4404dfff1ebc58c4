"""Implements ``lafp.storage`` for Azure Blob Storage: ``az://container/blob``. See there.

A blob appears when all of it has arrived, and has an ETag on which writes and deletes may depend,
so ``swap`` and ``delete_version`` hold. The account is given by the environment:
``AZURE_STORAGE_CONNECTION_STRING``; or ``AZURE_STORAGE_ACCOUNT_NAME`` with
``AZURE_STORAGE_ACCOUNT_KEY``, ``AZURE_STORAGE_SAS_TOKEN``, or whatever Azure's default credential
finds (``az login``, a managed identity ...).
"""

import os
import time
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
    downloaded,
    is_hidden,
    is_temporary,
    split,
    split_folder,
    swapped,
)
from lafp.storage.secrets import text_without_secrets

T = TypeVar("T")
_SET_CREDENTIALS = (
    "Set AZURE_STORAGE_CONNECTION_STRING; or AZURE_STORAGE_ACCOUNT_NAME with "
    "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or run `az login`."
)
_NOT_THAT_VERSION = ("BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet")
_IS_FOLDER = "hdi_isfolder"
"""Accounts with folders mark them by empty blobs with this key in their metadata."""
_COPY_LOOK_EVERY_S = 0.2
_NUM_RETRIES = 4
"""Tries of Azure's client, about 30 s of them. Beyond it ``patiently`` decides."""


def is_file(uri: str) -> bool:
    try:
        return _IS_FOLDER not in (_properties(uri).metadata or {})
    except FileNotFoundError:
        return False


def is_reachable(uri: str) -> bool:
    container, _ = split(uri)

    def look_up() -> None:
        with _az_errors("look up", uri):
            _client().get_container_client(container).exists(retry_total=0)

    return answers(look_up)


def look_up(uri: str) -> ObjectInfo:
    found = _properties(uri)
    return ObjectInfo(num_bytes=int(found.size), version=str(found.etag))


def _properties(uri: str) -> Any:
    if uri.endswith("/"):  # some tools create empty blobs of such names to show folders
        raise FileNotFoundError(f"No such object: {uri}")
    return _ask("look up", uri, lambda az: _blob(az, uri).get_blob_properties())


def read_bytes(uri: str, offset: int, length: int | None, version: str | None = None) -> bytes:
    if length == 0:
        return b""

    def read(az: Any) -> bytes:
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError

        condition: dict[str, Any] = {}
        if version is not None:
            condition = {"etag": version, "match_condition": MatchConditions.IfNotModified}
        try:
            found = _blob(az, uri).download_blob(offset=offset, length=length, **condition)
            return bytes(found.readall())
        except HttpResponseError as error:
            if error.status_code == 412:
                raise changed(uri) from None
            if error.status_code == 416:
                return b""  # beyond the end, as on a disk
            raise

    return _ask("read", uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    _ask("write", uri, lambda az: _blob(az, uri).upload_blob(data, overwrite=True))


def read_version(uri: str) -> tuple[bytes, str] | None:
    def read(az: Any) -> tuple[bytes, str]:
        found = _blob(az, uri).download_blob()
        return bytes(found.readall()), str(found.properties.etag)

    try:
        return _ask("read", uri, read)
    except FileNotFoundError:
        return None


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    def put(az: Any) -> str | None:
        from azure.core import MatchConditions
        from azure.core.exceptions import HttpResponseError

        condition: dict[str, Any] = (
            {"overwrite": False}
            if version is None
            else {
                "overwrite": True,
                "etag": version,
                "match_condition": MatchConditions.IfNotModified,
            }
        )
        try:
            return str(_blob(az, uri).upload_blob(data, **condition)["etag"])
        except HttpResponseError as error:
            is_gone = version is not None and _code(error) == "BlobNotFound"
            if error.status_code == 412 or _code(error) in _NOT_THAT_VERSION or is_gone:
                return None
            raise

    return swapped(read_version, uri, data, _ask("write", uri, put))


def delete_version(uri: str, version: str) -> None:
    def remove(az: Any) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        try:
            _blob(az, uri).delete_blob(etag=version, match_condition=MatchConditions.IfNotModified)
        except (ResourceModifiedError, ResourceNotFoundError):
            return

    _ask("delete", uri, remove)


def upload(local: str | Path, uri: str) -> None:
    def put(az: Any) -> None:
        with open(local, "rb") as file:
            _blob(az, uri).upload_blob(file, overwrite=True)

    _ask("write", uri, put)
    Path(local).unlink()


def download(uri: str, path: Path) -> None:
    def get(az: Any) -> None:
        with path.open("wb") as file:
            _blob(az, uri).download_blob().readinto(file)

    _ask("read", uri, get)


def local_file(uri: str) -> AbstractContextManager[Path]:
    return downloaded(uri, download)


def list_files(uri: str) -> Iterator[FileInfo]:
    name, prefix = split_folder(uri)
    with _az_errors("list", uri):
        container = _client().get_container_client(name)
        for blob in container.list_blobs(name_starts_with=prefix or None, include=["metadata"]):
            is_folder = _IS_FOLDER in (blob.metadata or {})
            if not is_folder and not is_hidden(blob.name.removeprefix(prefix)):
                yield FileInfo(uri=f"az://{name}/{blob.name}", num_bytes=int(blob.size))


def list_folders(uri: str) -> list[str]:
    name, prefix = split_folder(uri)

    def prefixes(az: Any) -> list[str]:
        from azure.storage.blob import BlobPrefix

        container = az.get_container_client(name)
        found = container.walk_blobs(name_starts_with=prefix or None, delimiter="/")
        return [item.name for item in found if isinstance(item, BlobPrefix)]

    return [name.removeprefix(prefix).rstrip("/") for name in _ask("list", uri, prefixes)]


def delete(uri: str) -> None:
    def remove(az: Any) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            _blob(az, uri).delete_blob()
        except ResourceNotFoundError:
            return

    _ask("delete", uri, remove)


def copy(uri: str, target: str) -> None:
    def start(az: Any) -> None:
        blob = _blob(az, target)
        status = blob.start_copy_from_url(_blob(az, uri).url)["copy_status"]
        while status == "pending":  # Azure copies in the background, mostly at once
            time.sleep(_COPY_LOOK_EVERY_S)
            status = blob.get_blob_properties().copy.status
        if status != "success":
            raise StorageError(
                f"Could not copy {uri} to {target}: Azure ended the copy with the status "
                f"{status!r}, expected 'success'."
            )

    _ask("copy", uri, start)


def _blob(az: Any, uri: str) -> Any:
    container, key = split(uri)
    if not key:
        raise FileNotFoundError(f"No such object: {uri}")
    return az.get_blob_client(container, key)


def _new_client() -> Any:
    # Imported late, as boto3 is in ``lafp.storage.s3``.
    from azure.storage.blob import BlobServiceClient

    # A piece that is read in order is one request; the client goes on where it broke off.
    options: dict[str, Any] = {
        "retry_total": _NUM_RETRIES,
        "initial_backoff": 1,
        "max_single_get_size": 2**26,
    }
    given = os.environ.get
    if connection := given("AZURE_STORAGE_CONNECTION_STRING"):
        return BlobServiceClient.from_connection_string(connection, **options)
    account = given("AZURE_STORAGE_ACCOUNT_NAME") or given("AZURE_STORAGE_ACCOUNT")
    if not account:
        raise CredentialsError(f"No Azure storage account is named. {_SET_CREDENTIALS}")
    credential = given("AZURE_STORAGE_ACCOUNT_KEY") or given("AZURE_STORAGE_SAS_TOKEN")
    url = f"https://{account}.blob.core.windows.net"
    return BlobServiceClient(url, credential or _default_credential(), **options)


def _default_credential() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


_client = PerThread(_new_client)


@contextmanager
def _az_errors(verb: str, uri: str) -> Iterator[None]:
    try:
        import azure.identity
        import azure.storage.blob  # noqa: F401
        from azure.core import exceptions as az_errors
    except ModuleNotFoundError as error:
        raise StorageError(
            f"Could not {verb} {uri}: az:// needs the packages azure-storage-blob and "
            f"azure-identity. Install them with: pip install 'lafp[azure]' (no module {error.name})"
        ) from None
    try:
        yield
    except az_errors.HttpResponseError as error:
        raise _translated(verb, uri, error) from error
    except (az_errors.ServiceRequestError, az_errors.ServiceResponseError) as error:
        raise UnreachableError(f"Could not {verb} {uri}: {_words(error)}") from error
    except az_errors.AzureError as error:
        raise failed(verb, uri, error) from error
    except CredentialsError as error:
        raise CredentialsError(f"Could not {verb} {uri}: {error}") from None
    except ValueError as error:  # such as a connection string of another form
        raise CredentialsError(
            f"Could not {verb} {uri}: the account's settings do not parse. {_SET_CREDENTIALS}"
        ) from error


_ask = Requests(lambda: _client(), _az_errors)


def _code(error: Any) -> str:
    return str(getattr(error, "error_code", None) or "")


def _words(error: Any) -> str:
    # Further lines of Azure's messages hold the id of the request and the time.
    return text_without_secrets(str(error).strip().partition("\n")[0])[:500]


def _translated(verb: str, uri: str, error: Any) -> OSError:
    """Translates an answer of Azure's into one of ``lafp.storage.base``."""
    text, code, status = f"Could not {verb} {uri}: {_words(error)}", _code(error), error.status_code
    if code == "ContainerNotFound":
        return StorageError(
            f"Could not {verb} {uri}: there is no such container. Correct its name, or make it on "
            "Azure first."
        )
    if status == 404:
        return FileNotFoundError(f"No such object: {uri}")
    is_unknown = code in ("AuthenticationFailed", "NoAuthenticationInformation")
    if is_unknown or status in (None, 401) or "failed to authenticate" in str(error):
        return CredentialsError(f"{text} {_SET_CREDENTIALS}")
    if code == "BlobArchived":
        return StorageError(f"{uri} lies in the archive tier. Rehydrate it on Azure first.")
    if status == 403:
        return AccessDeniedError(text)
    if status == 507 or code == "AccountLimitExceeded":
        return FullError(f"{text} Make room there.")
    if is_temporary(status):
        return UnreachableError(text)
    return failed(verb, uri, error)
