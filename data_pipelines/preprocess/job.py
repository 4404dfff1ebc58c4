"""Runs `preprocess`: list -> plan -> parts -> select -> shards -> tables.

Each arrow stores its result (the plan of tasks, each part, each shard) before the next begins, so
that the same command resumes. The shards do not depend on the number or order of tasks. The driver
holds one chunk of the plan and the rows of one shard at a time, whatever the size of the corpus;
rows that must be sorted lie in a database on its disk.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_pipelines.on_ray.cluster_gate import start_cluster_gate
from data_pipelines.on_ray.tasks import stream_tasks
from data_pipelines.preprocess.clip.masks import MasksConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.manifest import (
    check_accounts,
    check_totals,
    clips_table,
    shard_set,
    summarize,
    write_manifest,
    write_rejects,
)
from data_pipelines.preprocess.parts import (
    PartCounts,
    check_rejects,
    count_part,
    make_parts,
    read_made_parts,
    read_parts,
)
from data_pipelines.preprocess.plan import Plan, make_plan
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.search import find_duplicates
from data_pipelines.preprocess.secret_uris import SecretUris
from data_pipelines.preprocess.select.catalog import Catalog, disk_errors
from data_pipelines.preprocess.select.clips_and_splits import select_clips
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from data_pipelines.preprocess.shards import (
    LAYOUTS,
    ShardLayout,
    delete_other_shards,
    is_made,
    lay_out_shards,
    write_shard,
)
from data_pipelines.preprocess.sources.listing import list_source, may_download
from data_pipelines.preprocess.sources.masks import with_masks
from data_pipelines.preprocess.taken_down import read_takedowns, reject_taken_down
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split, entry_name
from lafp.runs.progress import Progress
from lafp.storage import strict_json
from lafp.storage.map_ahead import map_ahead
from lafp.storage.temporary import TemporaryFolder


def preprocess(cfg: PreprocessConfig, uri: str) -> dict[str, Any]:
    """Makes the shard set of one source below ``uri``; resumes an earlier run.

    Needs Ray to be initialized.

    Args:
        cfg: The job's config, with ``source`` set.
        uri: Folder of the stage, local or S3.

    Returns:
        The stage's summary.

    Raises:
        ConfigError: The source is missing, empty, or yields too little.
        StorageError: Reading or writing failed. Run again to resume.
    """
    work, totals = storage.join(uri, "work"), storage.join(uri, "totals.json")
    if not storage.is_file(storage.join(uri, "shard_set.json")):
        counts = FileCounts()
        with SecretUris(lambda: list_inputs(cfg)) as secrets:
            plan = make_plan(secrets.noted(list_inputs(cfg, counts)), cfg.tasks, work, counts)
            if may_download(cfg):
                start_cluster_gate()
            with telling_rejects(uri), rejects_of_made_parts(plan, uri):
                make_parts(cfg, plan, secrets.fill)
        files, parts = FileCounts.of_table(plan.files), PartCounts()
        with telling_rejects(uri), open_catalog(plan, files, parts) as catalog:
            judge(cfg, parts, catalog, uri)
            reject_taken_down(catalog, read_takedowns(uri))
            sets = FinishedSets(cfg.filters.against)
            find = partial(find_duplicates, work=work, node_labels=cfg.tasks.node_labels, sets=sets)
            select_clips(catalog, cfg, find, sets)
            write_rejects(uri, catalog.rejects())  # first: they explain an error in the next steps
            spec = shard_set(catalog, cfg)
            layouts = lay_out_shards(catalog.kept_clips(), cfg.shards.max_bytes)
            with clips_table(uri, layouts) as recorded:
                shards = make_shards(cfg, recorded, work, uri)
            delete_other_shards(work, uri, shards)
            summary = summarize(catalog, spec, files.table(), *write_manifest(uri, shards))
        check_totals(summary)
        # `shard_set.json` is written last, because its presence says that the set is complete.
        strict_json.write(totals, summary, indent=1)
        strict_json.write(storage.join(uri, "shard_set.json"), spec, indent=1)
    # Also after a run that was killed between the last file and this line.
    storage.delete_folder(work)
    return strict_json.read(dict[str, Any], totals)


def list_inputs(cfg: PreprocessConfig, counts: FileCounts | None = None) -> Iterator[VideoItem]:
    """Lists every input of the job, training sources first.

    Args:
        cfg: The job's config, with ``source`` set.
        counts: Counts all listed files, including those that are left out.
    """
    return (counts or FileCounts()).inputs(_list_files(cfg))


def _list_files(cfg: PreprocessConfig) -> Iterator[VideoItem | LeftOut]:
    assert cfg.source is not None
    masks = cfg.masks or MasksConfig()
    split: Split | None = "train" if cfg.val_source else None
    yield from _list_source(cfg.source, split, masks.source, cfg)
    if cfg.val_source is not None:
        yield from _list_source(cfg.val_source, "val", masks.val_source, cfg)


def _list_source(
    source: str, split: Split | None, masks: str | None, cfg: PreprocessConfig
) -> Iterator[VideoItem | LeftOut]:
    listed = list_source(source, split, cfg)
    return listed if masks is None else with_masks(listed, source, masks)


@contextmanager
def open_catalog(plan: Plan, files: FileCounts, counts: PartCounts) -> Iterator[Catalog]:
    """Opens a catalog of all rows of all parts, within the block.

    It checks that clips and rejects account for every second of each video, and counts the members
    of tars.

    Args:
        plan: The plan, all of whose parts are made.
        files: Gets the counts of members.
        counts: Gets the counts of all parts.
    """
    with TemporaryFolder() as folder, disk_errors(Path(folder)):
        catalog = Catalog(Path(folder))
        try:
            with Progress("select", plan.num_items, "videos") as progress:
                num_read = 0
                for task, items in read_parts(plan):
                    counts.add(count_part(task, items))
                    for item in items:
                        check_accounts(item)
                        files.add_members(item)
                    catalog.add(items)
                    num_read += len(items)
                    progress.update(num_read)
            yield catalog
        finally:
            catalog.close()


def judge(cfg: PreprocessConfig, counts: PartCounts, catalog: Catalog, uri: str) -> None:
    """Writes ``rejects.parquet`` and raises a ConfigError if too few videos give clips.

    All parts are judged, whichever start of the job made them.
    """
    try:
        check_rejects(cfg, counts)
    except ConfigError:
        write_rejects(uri, catalog.rejects())
        raise


@contextmanager
def telling_rejects(uri: str) -> Iterator[None]:
    """Appends the URI of ``rejects.parquet`` to a ConfigError of the block."""
    try:
        yield
    except ConfigError as error:
        rejects = storage.join(uri, "rejects.parquet")
        raise ConfigError(f"{error} All rejects are in {rejects}.") from None


@contextmanager
def rejects_of_made_parts(plan: Plan, uri: str) -> Iterator[None]:
    """Writes ``rejects.parquet`` from the parts made so far if the block raises a ConfigError."""
    try:
        yield
    except ConfigError:
        write_rejects(uri, (row for item in read_made_parts(plan) for row in item.rejects))
        raise


def make_shards(
    cfg: PreprocessConfig, layouts: Iterable[ShardLayout], work: str, uri: str
) -> list[str]:
    """Composes the shards that are missing or hold other clips, one Ray task per shard.

    Returns:
        The names of all shards.
    """
    shards: list[str] = []

    def calls() -> Iterator[tuple[str, tuple[str, str, str, bool]]]:
        for layout, layout_uri in map_ahead(partial(_handed_over, work, uri), layouts):
            shards.append(layout.shard)
            if layout_uri:
                yield layout.shard, (layout_uri, work, uri, cfg.filters.drop_duplicates)

    with Progress(f"shards {cfg.name}", 0, "shards") as progress:
        made = stream_tasks(
            make_shard,
            calls(),
            memory_bytes=cfg.tasks.memory_bytes,
            node_labels=cfg.tasks.node_labels,
        )
        for number, (_, error) in enumerate(made, start=1):
            if error:
                raise storage.StorageError(error)
            progress.update(number)
    return shards


def _handed_over(work: str, uri: str, layout: ShardLayout) -> tuple[ShardLayout, str | None]:
    """Stores a layout for its task, and returns it with its URI; None if the shard is complete."""
    if is_made(layout, uri):
        return layout, None
    # Stored rather than sent, so that the driver holds no layout of waiting tasks.
    layout_uri = storage.join(work, LAYOUTS, entry_name(layout.shard))
    strict_json.write(layout_uri, layout)
    return layout, layout_uri


def make_shard(layout_uri: str, work: str, uri: str, has_signatures: bool) -> str | None:
    """Composes one shard, as one Ray task. Returns an error message, or None."""
    try:
        write_shard(strict_json.read(ShardLayout, layout_uri), work, uri, has_signatures)
    except OSError as error:
        return str(error)
    return None
