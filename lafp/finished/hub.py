"""Copies finished models from the Hugging Face Hub, and publishes them there.

A URI is ``hf://USER/NAME``, with ``@REVISION`` (branch, tag or commit) and ``/FOLDER`` if wanted.
``huggingface_hub`` (extra ``hub``) does the work, so its token, its cache, ``HF_ENDPOINT`` and
``HF_HUB_OFFLINE`` apply. Nothing is unpickled: only JSON, YAML and safetensors are fetched.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

from lafp import storage
from lafp.config import ConfigError
from lafp.storage import StorageError
from lafp.storage.clients.hf import HubUri, connected, split

SCHEME = "hf://"
README = "README.md"
_MAX_BYTES = {
    "model.json": 16 << 20,
    "config.yaml": 16 << 20,
    "model.safetensors": 16 << 30,
}
"""Files that are fetched, and their largest sizes."""
_MAX_FILES = 1_000
_MAX_DEPTH = 4  # decoder/NAME/policy/model.json, below the run's folder
_PART = re.compile(r"[\w-][\w.-]*", re.ASCII)


def is_hub(uri: str) -> bool:
    """Tells whether ``uri`` begins with ``hf://``."""
    return uri.startswith(SCHEME)


def parse(uri: str) -> HubUri:
    """Splits a URI.

    Raises:
        ConfigError: It does not name a model repository.
    """
    with suppress(StorageError):
        found = split(uri.rstrip("/"))
        if found.kind == "model" and "@" not in found.path:
            return found
    raise ConfigError(
        f"{uri!r} is no model repository of the Hugging Face Hub. Expected hf://USER/NAME, "
        "hf://USER/NAME@REVISION or hf://USER/NAME/FOLDER."
    )


def parse_repository(uri: str) -> HubUri:
    """Splits a URI to push to.

    Raises:
        ConfigError: It does not name a whole repository.
    """
    wanted = parse(uri)
    if wanted.path:
        raise ConfigError(
            f"{uri}: a run is pushed to a whole repository, hf://USER/NAME. Leave out what "
            "follows it."
        )
    return wanted


def local_copy(uri: str) -> str:
    """Returns the URI itself, or the local copy of a folder on the hub, fetched if need be.

    Raises:
        ConfigError: The repository cannot be read, holds no models of lafp, or holds files of
            names or sizes that are not expected.
    """
    if not is_hub(uri):
        return uri
    wanted = parse(uri)
    with on_hub("load", uri) as hub:
        if hub.constants.HF_HUB_OFFLINE:
            copy = hub.snapshot_download(
                wanted.repo_id,
                revision=wanted.revision,
                # Without them the copy counts as incomplete, because not all files were fetched.
                allow_patterns=_patterns(wanted.path),
                local_files_only=True,
            )
            return storage.join(copy, wanted.path)
        info = hub.HfApi().model_info(wanted.repo_id, revision=wanted.revision, files_metadata=True)
        names = checked_names(uri, {f.rfilename: f.size for f in info.siblings}, wanted.path)
        copy = hub.snapshot_download(wanted.repo_id, revision=wanted.revision, allow_patterns=names)
    if PurePosixPath(copy).name != info.sha:
        raise ConfigError(f"{uri} changed while it was copied. Load it again.")
    return storage.join(copy, wanted.path)


def _patterns(folder: str) -> list[str]:
    below = f"{folder}/" if folder else ""
    return [f"{below}{start}{name}" for name in _MAX_BYTES for start in ("", "*/")]


def checked_names(uri: str, sizes: Mapping[str, int | None], folder: str = "") -> list[str]:
    """Chooses the files to fetch. Other files of the repository are left there.

    Args:
        uri: Begins the error.
        sizes: Name -> bytes of every file of the repository.
        folder: Limits the choice to files below it.

    Raises:
        ConfigError: There are none or too many, or one has a size or a name that is not expected.
    """
    names = []
    for name, num_bytes in sizes.items():
        path = PurePosixPath(name)
        most = _MAX_BYTES.get(path.name)
        if most is None or (folder and not path.is_relative_to(folder)):
            continue
        depth = len(path.parts) - len(PurePosixPath(folder).parts)
        if depth > _MAX_DEPTH or not all(map(_PART.fullmatch, path.parts)):
            raise ConfigError(
                f"{uri} holds the file {name[:100]!r}. A run's files lie up to {_MAX_DEPTH} levels "
                "deep in its folder, under names of letters, digits, '_', '-' and '.'."
            )
        if num_bytes is None or num_bytes > most:
            raise ConfigError(
                f"{uri}: {name} has {num_bytes} bytes, at most {most} are expected. Nothing was "
                "fetched."
            )
        names.append(name)
    if not any(PurePosixPath(name).name == "model.json" for name in names):
        raise ConfigError(f"{uri} holds no model of lafp: there is no model.json.")
    if len(names) > _MAX_FILES:
        raise ConfigError(f"{uri} holds {len(names)} files, at most {_MAX_FILES} are expected.")
    return names


def publish(uri: str, files: Mapping[str, str], texts: Mapping[str, str], is_private: bool) -> str:
    """Publishes files as one commit. Models of an earlier push that are gone now are deleted.

    Args:
        uri: The repository, made if it is missing, with a branch as its revision if wanted.
        files: Name in the repository -> URI of the file.
        texts: Name in the repository -> content.
        is_private: Whether a repository that is made is private.

    Returns:
        The web address of the commit.

    Raises:
        ConfigError: The hub refuses, or cannot be reached.
    """
    wanted = parse_repository(uri)
    with ExitStack() as stack, on_hub("push to", uri) as hub:
        api = hub.HfApi()
        added = [
            hub.CommitOperationAdd(name, str(stack.enter_context(storage.local_file(source))))
            for name, source in files.items()
        ]
        added += [hub.CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        # None leaves the choice to the organization, whose default may be private.
        api.create_repo(wanted.repo_id, private=is_private or None, exist_ok=True)
        if wanted.revision:
            api.create_branch(wanted.repo_id, branch=wanted.revision, exist_ok=True)
        kept = {*files, *texts}
        gone = [
            hub.CommitOperationDelete(name)
            for name in api.list_repo_files(wanted.repo_id, revision=wanted.revision)
            if name not in kept and PurePosixPath(name).name in _MAX_BYTES
        ]
        commit = api.create_commit(
            wanted.repo_id,
            [*added, *gone],
            commit_message="Push with lafp",
            revision=wanted.revision,
        )
    return str(commit.commit_url)


@contextmanager
def on_hub(verb: str, uri: str) -> Iterator[Any]:
    """Yields ``huggingface_hub``.

    Raises:
        ConfigError: It is not installed, or the hub cannot do what the block asks. The message is
            one line.
    """
    refused: ConfigError | None = None
    try:
        with connected(verb, uri) as hub:
            try:
                yield hub
            except ConfigError as error:  # of the block itself: no error of the hub
                refused = error
    except OSError as error:
        raise ConfigError(
            f"{uri}: {error} Check the revision, HF_ENDPOINT and the network; HF_HUB_OFFLINE=1 "
            "uses what was loaded before."
        ) from None
    if refused is not None:
        raise refused
