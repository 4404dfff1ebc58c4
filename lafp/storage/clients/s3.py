"""Makes the client of S3, boto3's, and translates its errors."""

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
from lafp.storage.remote import PerProcess, Requests
from lafp.storage.secrets import text_without_secrets

# boto3 asks for an answer so often, and ``lafp.storage.s3`` for its body.
NUM_TRIES = 8
_MOST_CONNECTIONS = 32
"""Connections that all threads of a process keep open. More are closed after their request."""
_REFUSED_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_NO_ROOM = ("XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "507")
_SET_CREDENTIALS = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for an object store other "
    "than AWS's, AWS_ENDPOINT_URL too."
)


def new_client() -> Any:
    # Imported late: it takes half of a process's start, which local files do not need.
    import boto3
    from botocore.config import Config

    config = Config(
        # The adaptive mode also slows this client down while S3 throttles it.
        retries={"max_attempts": NUM_TRIES, "mode": "adaptive"},
        max_pool_connections=_MOST_CONNECTIONS,
    )
    return boto3.session.Session().client("s3", config=config)


client = PerProcess(new_client)


@contextmanager
def connected(verb: str, uri: str) -> Iterator[Any]:
    """Yields the process's client, whose errors become those of ``lafp.storage.base``."""
    try:
        # Imported late, as is boto3: local files do not need it.
        import boto3.exceptions
        from botocore import exceptions as s3_errors
    except ModuleNotFoundError as error:
        raise StorageError(
            f"Could not {verb} {uri}: S3 needs the package {error.name}. "
            "Install it with: pip install 'lafp[s3]'"
        ) from None
    try:
        yield client()
    except s3_errors.ClientError as error:
        raise _translated(verb, uri, error) from error
    except (s3_errors.NoCredentialsError, s3_errors.PartialCredentialsError) as error:
        raise CredentialsError(
            f"Could not {verb} {uri}: {words(error)}. {_SET_CREDENTIALS}"
        ) from error
    except s3_errors.ParamValidationError as error:  # no bucket can have this name
        raise FileNotFoundError(f"No such object: {uri}. {words(error)}") from error
    except (
        s3_errors.HTTPClientError,
        s3_errors.ConnectionError,
        s3_errors.IncompleteReadError,
    ) as error:  # there was no connection, or it broke or timed out
        raise UnreachableError(f"Could not {verb} {uri}: {words(error)}") from error
    except (s3_errors.BotoCoreError, boto3.exceptions.Boto3Error) as error:
        if _is_server_error(error.__context__):  # boto3 wraps the server errors of large uploads
            raise UnreachableError(f"Could not {verb} {uri}: {words(error)}") from error
        raise failed(verb, uri, error) from error
    except KeyError as error:
        if error.args != ("ETag",):
            raise
        # boto3 looks for it in the answer to each part of a large upload.
        raise UnreachableError(f"Could not {verb} {uri}: an answer has no ETag.") from error


ask = Requests(connected)


def words(error: Exception) -> str:
    """Returns the message of an error, which may quote AWS_ENDPOINT_URL with a password in it."""
    return text_without_secrets(str(error))


def _translated(verb: str, uri: str, error: Any) -> OSError:
    """Translates a ``ClientError``, which S3 answered, into one of ``lafp.storage.base``."""
    code = error.response["Error"]["Code"]
    if code in ("404", "NoSuchKey", "NotFound"):
        return FileNotFoundError(f"No such object: {uri}")
    if code in ("403", "AccessDenied"):
        return AccessDeniedError(f"Could not {verb} {uri}: {words(error)}")
    # Before the server errors, to which 507 belongs: waiting makes no room.
    if code in _NO_ROOM:
        return FullError(f"Could not {verb} {uri}: {words(error)} Make room there.")
    if code in _REFUSED_CREDENTIALS:
        return CredentialsError(f"Could not {verb} {uri}: {words(error)} {_SET_CREDENTIALS}")
    if code == "InvalidObjectState":
        where = error.response["Error"].get("StorageClass", "an archive class")
        return StorageError(f"{uri} lies in archive storage ({where}). Restore it on S3 first.")
    if _is_server_error(error):
        return UnreachableError(f"Could not {verb} {uri}: {words(error)}")
    return failed(verb, uri, error)


def _is_server_error(error: BaseException | None) -> bool:
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return False
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
