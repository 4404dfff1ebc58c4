"""Finds the shard sets, tables and latent sets that a path holds, and opens them for reading."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.clip_tables import clip_files
from lafp.data.shards.format import ShardSet
from lafp.data.shards.sets import open_shard_set, read_manifest, shards_sha256
from lafp.data.stored_latents import open_latent_set
from lafp.runs.run_dir import RunDir
from lafp.storage.stored_table import StoredTable
from lafp.storage.strict_json import DamagedError

_SPEC, _REJECTS = "shard_set.json", "rejects.parquet"


@dataclass(frozen=True, kw_only=True)
class ViewedSet:
    """Holds what is open of one shard set."""

    name: str
    uri: str
    spec: ShardSet | None
    """None where preprocessing found no clip, and left rejects alone."""
    clips: StoredTable | None
    rejects: StoredTable | None
    shards: frozenset[str]
    """File names of the tars."""
    latents: Mapping[str, str]
    """Name -> URI of the latent sets that were made from these shards."""


def open_sets(uri: str, stack: ExitStack) -> list[ViewedSet]:
    """Opens the shard sets of a run, or the one shard set at ``uri``.

    Args:
        uri: Folder of a shard set or of a run, local or S3.
        stack: Holds the tables. Those of S3 are copies on the local disk until it is closed.

    Raises:
        ConfigError: There is no shard set.
        StorageError: The storage does not answer.
    """
    if _is_set(uri):
        run, folder = _run_of(uri)
        return [_open_set(uri, folder, run, stack)]
    run = RunDir(uri)
    stages = [stage for stage in run.stages_below("shards") if _is_set(stage.uri)]
    if not stages:
        raise ConfigError(
            f"Nothing to view at {uri}: there is neither {_SPEC} nor shards/<name>/{_SPEC}. Name "
            "the folder of a run or of a shard set, which `lafp preprocess` writes; of a study, "
            "one of its runs, STUDY/runs/RUN."
        )
    return [_open_set(stage.uri, stage.name.rpartition("/")[2], run, stack) for stage in stages]


def _is_set(uri: str) -> bool:
    return any(storage.is_file(storage.join(uri, name)) for name in (_SPEC, _REJECTS))


def _run_of(uri: str) -> tuple[RunDir | None, str]:
    """Returns the run of a shard set at ``<run>/shards/<name>``, if it lies so, and its name."""
    above, _, name = uri.rstrip("/").rpartition("/")
    run, _, folder = above.rpartition("/")
    return RunDir(run) if folder == "shards" and run else None, name


def _open_set(uri: str, name: str, run: RunDir | None, stack: ExitStack) -> ViewedSet:
    spec = open_shard_set(uri) if storage.is_file(storage.join(uri, _SPEC)) else None
    shards = read_manifest(uri, ["shard"])["shard"].to_pylist() if spec else []
    rejects = storage.join(uri, _REJECTS)
    return ViewedSet(
        name=name,
        uri=uri,
        spec=spec,
        clips=_open_table(clip_files(uri), stack) if spec else None,
        rejects=_open_table([rejects], stack) if storage.is_file(rejects) else None,
        shards=frozenset(shards),
        latents=_latents_of(uri, run) if spec and run else {},
    )


def _open_table(files: Iterable[str], stack: ExitStack) -> StoredTable:
    local = {uri: stack.enter_context(storage.local_file(uri)) for uri in files}
    try:
        return StoredTable(local)
    except DamagedError as error:
        raise ConfigError(f"{error}. Write the shard set again.") from None


def _latents_of(uri: str, run: RunDir) -> dict[str, str]:
    stages = run.complete_below("latents")
    if not stages:
        return {}
    content = shards_sha256(uri)
    return {
        stage.name.rpartition("/")[2]: stage.uri
        for stage in stages
        if open_latent_set(stage.uri).shards_sha256 == content
    }
