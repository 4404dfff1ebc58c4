"""Errors and the listing entry that local files and S3 share."""

from dataclasses import dataclass

from lafp.storage.secrets import text_without_secrets


class StorageError(OSError):
    """A read, write or listing failed. The message names the URI and the cause."""


class UnreachableError(StorageError):
    """The storage does not answer, or reports a temporary failure. A later try may succeed."""


class CredentialsError(StorageError):
    """There are no credentials, or the storage rejects them for every request."""


class AccessDeniedError(StorageError):
    """The credentials are valid but do not allow access to this file."""


class FullError(StorageError):
    """The storage is full. The message says where, and how much is free if that is known."""


class NotAFileError(StorageError):
    """The path is a folder, a pipe or a device instead of a file."""


class NotConditionalError(StorageError):
    """The object store does not support ``If-Match`` and ``If-None-Match`` for writes."""


class ChangedError(StorageError):
    """Another version of the object is there than the one that was asked for."""


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """Describes an object without its content."""

    num_bytes: int
    version: str | None = None
    """Names the file's content, in requests for parts of an object too; None if the store has no
    versions."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One listed file."""

    uri: str
    num_bytes: int
    error: OSError | None = None
    """The reason why an existing file or folder cannot be read; None if it can be."""


def failed(verb: str, uri: str, error: Exception) -> StorageError:
    """Makes a StorageError that names the action, the URI and the cause."""
    return StorageError(f"Could not {verb} {uri}: {text_without_secrets(str(error))}")
