"""What local files and S3 have in common: errors, and what a listing says of a file."""

from dataclasses import dataclass


class StorageError(OSError):
    """A read, write or listing failed. The message names the URI and the cause."""


class UnreachableError(StorageError):
    """The storage does not answer, or says that it cannot now. It may later."""


class CredentialsError(StorageError):
    """There are no credentials, or they are refused, whatever they are used for."""


class AccessDeniedError(StorageError):
    """These credentials are good, but not for this file."""


class FullError(StorageError):
    """There is no room to write. The message says where, and how much is free if that is known."""


class NotAFileError(StorageError):
    """A folder, a pipe or a device stands where a file is wanted."""


class NotConditionalError(StorageError):
    """This object store does not know ``If-Match`` and ``If-None-Match`` of writes."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One listed file."""

    uri: str
    num_bytes: int
    error: OSError | None = None
    """What is wrong with a file or folder that is there but cannot be looked at."""


def failed(verb: str, uri: str, error: Exception) -> StorageError:
    """``error`` in our words."""
    return StorageError(f"Could not {verb} {uri}: {error}")
