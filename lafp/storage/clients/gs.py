"""Makes the client of Google Cloud Storage, and translates its errors."""

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
from lafp.storage.remote import Lent, Requests, is_temporary
from lafp.storage.secrets import text_without_secrets

_SET_CREDENTIALS = (
    "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the "
    "file of a service account."
)


def new_client() -> Any:
    # Imported late, as boto3 is.
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage

    try:
        # Reading and writing objects needs no project, but the client asks for one.
        return storage.Client(project="unused")
    except DefaultCredentialsError:
        return storage.Client.create_anonymous_client()


client = Lent(new_client)


@contextmanager
def connected(verb: str, uri: str) -> Iterator[Any]:
    """Yields a client for this thread alone, whose errors become those of ``lafp.storage.base``."""
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
        with client() as lent:
            yield lent
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


ask = Requests(connected)


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
