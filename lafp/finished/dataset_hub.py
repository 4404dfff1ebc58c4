"""Publishes a shard set as a dataset on the Hugging Face Hub; a broken push goes on where it broke.

Shards are pushed first, some files per commit. The last commit brings all tables, the card and
``shard_set.json``, without which readers find no set, and deletes files of an earlier push that the
set no longer has, such as shards with a video that was taken down. So readers of a set that is
pushed again see all tables of before, or all new ones.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from lafp import storage
from lafp.config import ConfigError
from lafp.data.packing import packed
from lafp.data.shards.clip_tables import clip_file, clip_files
from lafp.data.shards.format import entry_name, signatures_name
from lafp.data.shards.sets import open_shard_set, read_manifest
from lafp.finished.dataset_card import dataset_card
from lafp.finished.hub import README, on_hub
from lafp.runs.run_dir import StageDir
from lafp.storage import StorageError
from lafp.storage.clients.hf import HubUri, split

_TABLES = ("manifest.parquet", "shard_set.json")
_OUR_FILE = re.compile(
    r"(train|val)-[\w.-]*\.(tar|json|signatures\.parquet)|clips/part-\d+\.parquet", re.ASCII
)
# Limits of one commit. A push that breaks repeats at most this much, and shards that lie on S3 take
# this much of the local disk.
_MAX_COMMIT_FILES, _MAX_COMMIT_BYTES = 100, 2 * 2**30
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """Everything that is published of a shard set."""

    shards: Mapping[str, str]
    """Name of a shard -> its SHA-256."""
    clip_files: Sequence[str]
    """Names of the files of the table of clips."""
    sizes: Mapping[str, int]
    """Name of a shard -> its bytes."""
    uri: str
    """The set's folder."""
    card: str
    has_signatures: bool
    """Whether a table of signatures lies beside each shard."""

    def names(self) -> list[str]:
        """Lists the files of all shards in the order in which they are pushed."""
        kinds = (str, signatures_name, entry_name) if self.has_signatures else (str, entry_name)
        return [name_of(shard) for shard in self.shards for name_of in kinds]


def parse_dataset(uri: str) -> HubUri:
    """Splits the URI of a dataset to push to.

    Raises:
        ConfigError: It does not name a whole dataset.
    """
    with suppress(StorageError):
        found = split(uri)
        if found.kind == "dataset" and not found.path:
            return found
    raise ConfigError(
        f"{uri!r} is no dataset of the Hugging Face Hub. Expected hf://datasets/USER/NAME, "
        "with @BRANCH if wanted."
    )


def published_set(stage: StageDir, uri: str) -> PublishedSet:
    """Gathers a finished shard set.

    Raises:
        ConfigError: There is none.
    """
    spec = open_shard_set(stage.uri)
    names = ("shard", "split", "num_clips", "num_bytes", "sha256")
    rows = read_manifest(stage.uri, names).to_pylist()
    return PublishedSet(
        shards={row["shard"]: row["sha256"] for row in rows},
        clip_files=[clip_file(number) for number, _ in enumerate(clip_files(stage.uri))],
        sizes={row["shard"]: row["num_bytes"] for row in rows},
        uri=stage.uri,
        card=dataset_card(stage, rows, uri),
        has_signatures=spec.has_signatures,
    )


def publish_set(
    uri: str, found: PublishedSet, is_private: bool, tell: Callable[[str], None]
) -> str:
    """Publishes a shard set. What an earlier push has stored is not sent again.

    Args:
        uri: The dataset, made if it is missing, with a branch as its revision if wanted.
        found: The set.
        is_private: Whether a dataset that is made is private.
        tell: Gets a line per commit.

    Returns:
        The web address of the last commit.

    Raises:
        ConfigError: The hub refuses or cannot be reached, or a shard is damaged.
    """
    wanted = parse_dataset(uri)
    where: dict[str, Any] = {"repo_id": wanted.repo_id, "repo_type": "dataset"}
    with on_hub("push to", uri) as hub:
        api = hub.HfApi()
        api.create_repo(**where, private=is_private or None, exist_ok=True)
        if wanted.revision:
            api.create_branch(**where, branch=wanted.revision, exist_ok=True)
        where["revision"] = wanted.revision
        tree = api.list_repo_tree(**where, recursive=True)
        there = {file.path: file for file in tree if isinstance(file, hub.hf_api.RepoFile)}
        names = found.names()
        missing = [name for name in names if not _is_there(there.get(name), name, found)]
        num_done = len(names) - len(missing)
        if num_done:
            tell(f"{num_done} of {len(names)} files are there already")
        commits = packed(
            missing, lambda name: found.sizes.get(name, 0), _MAX_COMMIT_BYTES, _MAX_COMMIT_FILES
        )
        for of_commit in commits:
            with ExitStack() as stack:
                added = [_added(hub, stack, name, found) for name in of_commit]
                api.create_commit(operations=added, commit_message="Push shards with lafp", **where)
            num_done += len(of_commit)
            tell(f"pushed {num_done} of {len(names)} files")
        with ExitStack() as stack:
            tables = (*found.clip_files, *_TABLES)
            last = [_added(hub, stack, name, found) for name in tables]
            last.append(hub.CommitOperationAdd(README, found.card.encode()))
            old = there.keys() - {*names, *tables}
            stale = (name for name in old if _OUR_FILE.fullmatch(name))
            last += [hub.CommitOperationDelete(name) for name in sorted(stale)]
            commit = api.create_commit(operations=last, commit_message="Push with lafp", **where)
    return str(commit.commit_url)


def _is_there(file: Any, name: str, found: PublishedSet) -> bool:
    """Tells whether a file of the hub has the content of the set's."""
    if file is None:
        return False
    if name in found.shards and file.size != found.sizes[name]:
        return False
    if name in found.shards and file.lfs is not None:
        return bool(file.lfs.sha256 == found.shards[name])
    with storage.local_file(storage.join(found.uri, name)) as path:
        if file.lfs is not None:
            with path.open("rb") as opened:
                return bool(file.lfs.sha256 == hashlib.file_digest(opened, "sha256").hexdigest())
        # Files that the hub keeps in git itself have the hash of git.
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as opened:
            while data := opened.read(_CHUNK_BYTES):
                digest.update(data)
    return bool(file.blob_id == digest.hexdigest())


def _added(hub: Any, stack: ExitStack, name: str, found: PublishedSet) -> Any:
    """Returns the operation that adds a file of the set.

    Raises:
        ConfigError: A shard is not the one that the manifest names.
    """
    uri = storage.join(found.uri, name)
    added = hub.CommitOperationAdd(name, str(stack.enter_context(storage.local_file(uri))))
    if name in found.shards and added.upload_info.sha256.hex() != found.shards[name]:
        raise ConfigError(
            f"{uri} is damaged: manifest.parquet has another checksum of it. Copy or make the "
            "shard set again. Nothing of this shard was pushed."
        )
    return added
