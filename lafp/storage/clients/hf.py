"""Gives ``huggingface_hub``, which asks the Hugging Face Hub, and translates its errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from lafp.storage.base import (
    AccessDeniedError,
    CredentialsError,
    StorageError,
    UnreachableError,
    failed,
)
from lafp.storage.remote import Requests, is_temporary
from lafp.storage.secrets import text_without_secrets

_LOGIN = "Check the name, and run `hf auth login` or set HF_TOKEN if it is private or gated."

_URI = re.compile(
    r"hf://(datasets/)?((?!datasets/|spaces/)[\w-][\w.-]*/[\w-][\w.-]*)(?:@([^/@]+))?(?:/(.*))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class HubUri:
    """A file or folder of a repository on the Hugging Face Hub."""

    kind: str
    """``dataset`` or ``model``."""
    repo_id: str
    revision: str | None
    """None means the main branch."""
    path: str
    """Empty for the whole repository."""

    @property
    def named(self) -> dict[str, str | None]:
        """Returns the arguments by which ``huggingface_hub`` takes the repository."""
        return {"repo_type": self.kind, "repo_id": self.repo_id, "revision": self.revision}


def split(uri: str) -> HubUri:
    """Splits ``hf://datasets/OWNER/NAME@REVISION/PATH``; a model has no ``datasets/``.

    Raises:
        StorageError: It names no repository.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        raise StorageError(
            f"{uri!r} names no repository of the Hugging Face Hub. Write it as "
            "hf://datasets/OWNER/NAME/FILE."
        )
    is_dataset, repo_id, revision, path = found.groups()
    # A revision such as refs/pr/1 is written refs%2Fpr%2F1, as huggingface_hub does.
    revision = unquote(revision) if revision else None
    return HubUri("dataset" if is_dataset else "model", repo_id, revision, path or "")


@contextmanager
def connected(verb: str, uri: str) -> Iterator[Any]:
    """Yields ``huggingface_hub``, whose errors become those of ``lafp.storage.base``."""
    try:
        import huggingface_hub.hf_api
    except ModuleNotFoundError as error:
        raise StorageError(
            f"Could not {verb} {uri}: hf:// needs the package huggingface_hub. "
            f"Install it with: pip install 'lafp[hub]' (no module {error.name})"
        ) from None
    try:
        yield huggingface_hub
    except StorageError:
        raise
    # Which HTTP client is used, and so the classes of its errors, depends on the hub's version.
    except Exception as error:
        raise _translated(verb, uri, error) from error


ask = Requests(connected)


def _translated(verb: str, uri: str, error: Exception) -> OSError:
    """Translates an error of ``huggingface_hub`` into one of ``lafp.storage.base``."""
    from huggingface_hub import errors

    text = f"Could not {verb} {uri}: {_words(error)}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return StorageError(
            f"Could not {verb} {uri}: HF_HUB_OFFLINE is set, and the cache does not hold it. Run "
            "`hf download` with a network first."
        )
    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError):
        return StorageError(f"{text} {_LOGIN}")
    if isinstance(error, errors.EntryNotFoundError | errors.HFValidationError | FileNotFoundError):
        return FileNotFoundError(f"No such file: {uri}")
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(verb, uri, text, error)
    if isinstance(error, OSError) and error.errno is not None:  # of the local disk
        return failed(verb, uri, error)
    return UnreachableError(text)


def _answered(verb: str, uri: str, text: str, error: Any) -> OSError:
    status = getattr(error.response, "status_code", 0)
    if status == 401:
        return CredentialsError(f"{text} {_LOGIN}")
    if status == 403:
        return AccessDeniedError(f"{text} {_LOGIN}")
    if is_temporary(status):
        return UnreachableError(text)
    return failed(verb, uri, error)


def _words(error: BaseException) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return text_without_secrets(words)[:300]
