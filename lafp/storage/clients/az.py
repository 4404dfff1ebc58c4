"""Makes the client of Azure Blob Storage, and translates its errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lafp.storage.base import (
    AccessDeniedError,
    CredentialsError,
    FullError,
    StorageError,
    UnreachableError,
    failed,
)
from lafp.storage.remote import PerProcess, Requests, is_temporary
from lafp.storage.secrets import text_without_secrets

_SET_CREDENTIALS = (
    "Set AZURE_STORAGE_CONNECTION_STRING; or AZURE_STORAGE_ACCOUNT_NAME with "
    "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or run `az login`."
)
_NUM_RETRIES = 4
"""Tries of Azure's client, about 30 s of them. Beyond it ``patiently`` decides."""


def new_client() -> Any:
    # Imported late, as boto3 is.
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


client = PerProcess(new_client)


@contextmanager
def connected(verb: str, uri: str) -> Iterator[Any]:
    """Yields this thread's client, whose errors become those of ``lafp.storage.base``."""
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
        yield client()
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


ask = Requests(connected)


def code_of(error: Any) -> str:
    return str(getattr(error, "error_code", None) or "")


def _words(error: Any) -> str:
    # Further lines of Azure's messages hold the id of the request and the time.
    return text_without_secrets(str(error).strip().partition("\n")[0])[:500]


def _translated(verb: str, uri: str, error: Any) -> OSError:
    """Translates an answer of Azure's into one of ``lafp.storage.base``."""
    text, code, status = (
        f"Could not {verb} {uri}: {_words(error)}",
        code_of(error),
        error.status_code,
    )
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
