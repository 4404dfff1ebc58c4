"""Implements ``lafp.storage`` for Azure Blob Storage: ``az://container/blob``. See there.

A blob appears when all of it has arrived, and has an ETag on which writes and deletes may depend,
so ``swap`` and ``delete_version`` hold. The account is given by the environment:
``AZURE_STORAGE_CONNECTION_STRING``; or ``AZURE_STORAGE_ACCOUNT_NAME`` with
``AZURE_STORAGE_ACCOUNT_KEY``, ``AZURE_STORAGE_SAS_TOKEN``, or whatever Azure's default credential
finds (``az login``, a managed identity ...).
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lafp.storage.base import (
    FileInfo,
    ObjectInfo,
    StorageError,
)
from lafp.storage.clients.az import ask, code_of, connected
from lafp.storage.remote import (
    answers,
    changed,
    downloaded,
    is_hidden,
    split,
    split_folder,
    swapped,
)

_NOT_THAT_VERSION = ("BlobAlreadyExists", "ConditionNotMet", "TargetConditionNotMet")
_IS_FOLDER = "hdi_isfolder"
"""Accounts with folders mark them by empty blobs with this key in their metadata."""
_COPY_LOOK_EVERY_S = 0.2


def is_file(uri: str) -> bool:
    try:
        return _IS_FOLDER not in (_properties(uri).metadata or {})
    except FileNotFoundError:
        return False


def is_reachable(uri: str) -> bool:
    container, _ = split(uri)

    def look_up() -> None:
        with connected("look up", uri) as az:
            az.get_container_client(container).exists(retry_total=0)

    return answers(look_up)


def look_up(uri: str) -> ObjectInfo:
    found = _properties(uri)
    return ObjectInfo(num_bytes=int(found.size), version=str(found.etag))


def _properties(uri: str) -> Any:
    if uri.endswith("/"):  # some tools create empty blobs of such names to show folders
        raise FileNotFoundError(f"No such object: {uri}")
    return ask("look up", uri, lambda az: _blob(az, uri).get_blob_properties())


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

    return ask("read", uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    ask("write", uri, lambda az: _blob(az, uri).upload_blob(data, overwrite=True))


def read_version(uri: str) -> tuple[bytes, str] | None:
    def read(az: Any) -> tuple[bytes, str]:
        found = _blob(az, uri).download_blob()
        return bytes(found.readall()), str(found.properties.etag)

    try:
        return ask("read", uri, read)
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
            is_gone = version is not None and code_of(error) == "BlobNotFound"
            if error.status_code == 412 or code_of(error) in _NOT_THAT_VERSION or is_gone:
                return None
            raise

    return swapped(read_version, uri, data, ask("write", uri, put))


def delete_version(uri: str, version: str) -> None:
    def remove(az: Any) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        try:
            _blob(az, uri).delete_blob(etag=version, match_condition=MatchConditions.IfNotModified)
        except (ResourceModifiedError, ResourceNotFoundError):
            return

    ask("delete", uri, remove)


def upload(local: str | Path, uri: str) -> None:
    def put(az: Any) -> None:
        with open(local, "rb") as file:
            _blob(az, uri).upload_blob(file, overwrite=True)

    ask("write", uri, put)
    Path(local).unlink()


def download(uri: str, path: Path) -> None:
    def get(az: Any) -> None:
        with path.open("wb") as file:
            _blob(az, uri).download_blob().readinto(file)

    ask("read", uri, get)


def local_file(uri: str) -> AbstractContextManager[Path]:
    return downloaded(uri, download)


def list_files(uri: str) -> Iterator[FileInfo]:
    name, prefix = split_folder(uri)
    with connected("list", uri) as az:
        container = az.get_container_client(name)
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

    return [name.removeprefix(prefix).rstrip("/") for name in ask("list", uri, prefixes)]


def delete(uri: str) -> None:
    def remove(az: Any) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            _blob(az, uri).delete_blob()
        except ResourceNotFoundError:
            return

    ask("delete", uri, remove)


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

    ask("copy", uri, start)


def _blob(az: Any, uri: str) -> Any:
    container, key = split(uri)
    if not key:
        raise FileNotFoundError(f"No such object: {uri}")
    return az.get_blob_client(container, key)
