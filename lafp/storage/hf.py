"""Implements ``lafp.storage`` for repositories of the Hugging Face Hub, which are read only.

``hf://datasets/OWNER/NAME/FILE`` is a file of a dataset, ``hf://OWNER/NAME/FILE`` one of a model;
``NAME@REVISION`` names a branch, tag or commit. ``huggingface_hub`` makes the requests, so
``HF_ENDPOINT``, ``HF_TOKEN``, and ``HF_HOME`` apply. With ``HF_HUB_OFFLINE`` the files are those
that ``hf download`` has left in its cache.

Writes are refused: on the hub each write is a commit, of which it allows a few hundred an hour, and
a job renews the lease of its folder every few seconds.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

from lafp.storage.base import (
    FileInfo,
    ObjectInfo,
    StorageError,
)
from lafp.storage.clients.hf import ask, split
from lafp.storage.local import file_at
from lafp.storage.local import is_file as is_local_file
from lafp.storage.local import list_files as list_local_files
from lafp.storage.local import list_folders as list_local_folders
from lafp.storage.local import read_bytes as read_local_bytes
from lafp.storage.names import uri_of_name
from lafp.storage.remote import answers, downloaded, is_hidden


def is_file(uri: str) -> bool:
    if (copy := _offline(uri)) is not None:
        return is_local_file(copy)
    return _size(uri) is not None


def look_up(uri: str) -> ObjectInfo:
    if (copy := _offline(uri)) is not None:
        return ObjectInfo(num_bytes=file_at(copy).stat().st_size)
    size = _size(uri)
    if size is None:
        raise FileNotFoundError(f"No such file: {uri}")
    return ObjectInfo(num_bytes=size)


def _size(uri: str) -> int | None:
    """Returns the size of a file; None if there is no such file."""
    repository = split(uri)
    path = repository.path
    if not path or path.endswith("/"):
        return None

    def look_up(hub: Any) -> int | None:
        for found in hub.HfApi().get_paths_info(paths=[path], **repository.named):
            if isinstance(found, hub.hf_api.RepoFile) and found.path == path:
                return int(found.size)
        return None

    return ask("look up", uri, look_up)


def is_reachable(uri: str) -> bool:
    return answers(lambda: is_file(uri))


def read_bytes(uri: str, offset: int, length: int | None, version: str | None = None) -> bytes:
    if (copy := _offline(uri)) is not None:
        return read_local_bytes(copy, offset, length)
    if length == 0:
        return b""
    repository = split(uri)
    path = repository.path

    def read(hub: Any) -> bytes:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

        url = hub.hf_hub_url(filename=path, **repository.named)
        headers = build_hf_headers()
        is_part = bool(offset) or length is not None
        if is_part:
            headers["range"] = f"bytes={offset}-" + (
                "" if length is None else str(offset + length - 1)
            )
        answer = http_backoff(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
            follow_redirects=True,
        )  # fmt: skip
        if answer.status_code == 416:
            return b""  # beyond the end, as on a disk
        hf_raise_for_status(answer)
        data = bytes(answer.content)
        if is_part and answer.status_code == 200:  # mirrors may send the whole file
            return data[offset:] if length is None else data[offset : offset + length]
        return data

    return ask("read", uri, read)


def download(uri: str, path: Path) -> None:
    if (copy := _offline(uri)) is not None:
        path.symlink_to(file_at(copy).resolve())
        return
    repository = split(uri)
    name = repository.path

    def get(hub: Any) -> None:
        # Into a folder of its own: the cache would keep every video of a source. The client goes on
        # where a transfer broke off, and checks the size.
        folder = path.with_name(f"{path.name}.hub")
        got = hub.hf_hub_download(filename=name, local_dir=folder, **repository.named)
        Path(got).rename(path)

    ask("read", uri, get)


def local_file(uri: str) -> AbstractContextManager[Path]:
    return downloaded(uri, download)


def list_files(uri: str) -> Iterator[FileInfo]:
    if (copy := _offline(uri)) is not None:
        # The cache keeps links to its files.
        for info in list_local_files(copy):
            relative = info.uri.removeprefix(uri_of_name(copy)).strip("/")
            yield FileInfo(uri=f"{uri.rstrip('/')}/{relative}", num_bytes=info.num_bytes)
        return
    path = split(uri).path
    root = uri.rstrip("/").removesuffix(path.rstrip("/")).rstrip("/")
    # The hub lists folders before files. All of a repository is held in memory to sort it, which
    # the hub's limit of about 100,000 files a repository allows.
    for name, size in sorted(_tree(uri, is_deep=True, wants_files=True)):
        if not is_hidden(name.removeprefix(path.rstrip("/")).strip("/")):
            yield FileInfo(uri=f"{root}/{name}", num_bytes=size)


def list_folders(uri: str) -> list[str]:
    if (copy := _offline(uri)) is not None:
        return list_local_folders(copy)
    return [name.rpartition("/")[2] for name, _ in _tree(uri, is_deep=False, wants_files=False)]


def _tree(uri: str, is_deep: bool, wants_files: bool) -> list[tuple[str, int]]:
    """Lists the paths and sizes of files or folders below a folder; a missing one is empty."""
    repository = split(uri)
    path = repository.path

    def tree(hub: Any) -> list[tuple[str, int]]:
        from huggingface_hub.errors import EntryNotFoundError

        kind = hub.hf_api.RepoFile if wants_files else hub.hf_api.RepoFolder
        found = hub.HfApi().list_repo_tree(
            path_in_repo=path.rstrip("/") or None, recursive=is_deep, **repository.named
        )
        try:
            return [(item.path, getattr(item, "size", 0)) for item in found if type(item) is kind]
        except EntryNotFoundError:
            return []

    return ask("list", uri, tree)


def _offline(uri: str) -> str | None:
    """Returns the path of a file or folder in the hub's cache; None unless offline."""
    repository = split(uri)
    path = repository.path

    def snapshot(hub: Any) -> str | None:
        from huggingface_hub import constants

        if not constants.HF_HUB_OFFLINE:
            return None
        # Patterns, because a dataset of which parts were downloaded is used, too.
        folder = hub.snapshot_download(
            local_files_only=True, allow_patterns=path or None, **repository.named
        )
        return str(Path(folder, path))

    return ask("look up", uri, snapshot)


def _refuse(uri: str) -> NoReturn:
    raise StorageError(
        f"{uri}: hf:// is read only. On the hub each write is a commit, and a job writes more "
        "often than it allows. Write to a folder, s3://, gs:// or az://, and use `lafp push`."
    )


def write_bytes(uri: str, data: bytes) -> None:
    _refuse(uri)


def upload(local: str | Path, uri: str) -> None:
    _refuse(uri)


def read_version(uri: str) -> tuple[bytes, str] | None:
    _refuse(uri)


def swap(uri: str, data: bytes, version: str | None) -> str | None:
    _refuse(uri)


def delete_version(uri: str, version: str) -> None:
    _refuse(uri)


def delete(uri: str) -> None:
    _refuse(uri)


def copy(uri: str, target: str) -> None:
    _refuse(target)
