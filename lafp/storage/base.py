"""What local files and S3 have in common: errors, and what a listing says of a file."""

from dataclasses import dataclass


class StorageError(OSError):
    """A read, write or listing failed. The message names the URI and the cause."""


class UnreachableError(StorageError):
    """The storage does not answer, or says that it cannot now. It may later."""


class AccessDeniedError(StorageError):
    """These credentials are good, but not for this file."""


class FullError(StorageError):
    """There is no room to write. The message says where, and how much is free if that is known."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One listed file."""

    uri: str
    num_bytes: int


def failed(verb: str, uri: str, error: Exception) -> StorageError:
    """``error`` in our words."""
    return StorageError(f"Could not {verb} {uri}: {error}")
