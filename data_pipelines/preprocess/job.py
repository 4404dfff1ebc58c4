"""Runs `preprocess`: list -> plan -> parts -> select -> shards -> tables.

Each arrow stores its result (the plan of tasks, each part, each step of the selection, each shard)
before the next begins, so that the same command resumes. The shards do not depend on the number or
order of tasks. The driver holds one chunk of the plan and one table of clips at a time, whatever
the size of the corpus; rows that must be brought together are in tables, which tasks read.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from data_pipelines.on_ray.joined import is_on_ray
from data_pipelines.preprocess.clip.masks import MasksConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.manifest import (
    check_totals,
    clips_table,
    shard_set,
    summarize,
    write_manifest,
    write_reject_rows,
    write_rejects,
)
from data_pipelines.preprocess.part_blocks import (
    BLOCK_BYTES,
    BlockReader,
    Blocks,
    divide,
    fingerprint,
)
from data_pipelines.preprocess.parts import check_rejects, make_parts, read_made_parts
from data_pipelines.preprocess.plan import SELECTIONS, Plan, make_plan
from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.run_tasks import run_tasks
from data_pipelines.preprocess.secret_uris import SecretUris
from data_pipelines.preprocess.select.blocks import Block, clip_rows
from data_pipelines.preprocess.select.finished_sets import FinishedSets, telling_damage
from data_pipelines.preprocess.select.selection import TABLES_FORMAT, Selected, Selection
from data_pipelines.preprocess.select.steps import InProcess, OnRay, Tables
from data_pipelines.preprocess.shards import (
    ShardLayout,
    delete_other_shards,
    is_made,
    write_shard,
)
from data_pipelines.preprocess.sources.listing import list_source, may_download
from data_pipelines.preprocess.sources.masks import with_masks
from data_pipelines.preprocess.taken_down import TakenDown, read_takedowns
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split
from lafp.runs.progress import Progress
from lafp.storage import strict_json

IN_PROCESS_BYTES = 32 * 2**20
"""Most bytes of rows of a source with which the driver selects clips itself: some 30,000 clips, or
3,000 with actions. 20,000 clips of 10 s take 0.4 GiB there."""
_BYTES_PER_KNOWN_CLIP = 1_000


def _needs_ray() -> None:
    raise RuntimeError("The source is so large that clips are selected on Ray. Call ray.init().")


def preprocess(
    cfg: PreprocessConfig, uri: str, start_ray: Callable[[], object] = _needs_ray
) -> dict[str, Any]:
    """Makes the shard set of one source below ``uri``; resumes an earlier run.

    Where this process has joined a Ray, all tasks run there, else in threads of this process.

    Args:
        cfg: The job's config, with ``source`` set.
        uri: Folder of the stage, local or S3.
        start_ray: Joins or starts a Ray. It is called if this process has none, and the source has
            so many clips that they are selected on Ray Data. By default that is an error.

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
            if is_on_ray() and may_download(cfg):
                from data_pipelines.on_ray.cluster_gate import start_cluster_gate

                start_cluster_gate()
            with telling_rejects(uri), rejects_of_made_parts(plan, uri):
                make_parts(cfg, plan, secrets.fill)
        files = FileCounts.of_table(plan.files)
        with telling_rejects(uri):
            selected = select(cfg, plan, uri, files, start_ray=start_ray)
            write_rejects(uri, selected.rejects())  # they explain an error in the next steps
            spec = shard_set(selected, cfg)
            with clips_table(uri, selected, cfg.shards.max_bytes) as layouts:
                shards = make_shards(cfg, layouts, selected.tables, work, uri)
            delete_other_shards(uri, shards)
            summary = summarize(selected, spec, files.table(), *write_manifest(uri, shards))
        check_totals(summary)
        # `shard_set.json` is written last, because its presence says that the set is complete.
        strict_json.write(totals, summary, indent=1)
        strict_json.write(storage.join(uri, "shard_set.json"), spec, indent=1)
    # Also after a run that was killed between the last file and this line.
    storage.delete_folder(work)
    return strict_json.read(dict[str, Any], totals)


def select(
    cfg: PreprocessConfig,
    plan: Plan,
    uri: str,
    files: FileCounts,
    block_bytes: int = BLOCK_BYTES,
    in_process_bytes: int = IN_PROCESS_BYTES,
    start_ray: Callable[[], object] = _needs_ray,
) -> Selected:
    """Decides which clips of all parts are kept, in this process or on Ray Data.

    Args:
        cfg: The job's config.
        plan: The plan, all of whose parts are made.
        uri: Folder of the stage.
        files: Gets the counts of members of tars.
        block_bytes: See ``divide``.
        in_process_bytes: Most bytes of rows with which Ray Data is not used.
        start_ray: See ``preprocess``.

    Raises:
        ConfigError: Too few videos give clips, and more (``Selection.run``).
        StorageError: A part is gone. The resumed job makes it anew.
    """
    takedowns, sets = read_takedowns(uri), FinishedSets(cfg.filters.against)
    blocks = divide(plan, block_bytes)
    rules = (cfg.val_fraction, cfg.filters.drop_duplicates, sets.fingerprint, sets.uris, takedowns)
    rows = (TABLES_FORMAT, blocks.digest)
    tables = Tables(storage.join(plan.work, SELECTIONS, fingerprint(*rows, *rules)))
    is_small = blocks.num_bytes + sets.num_clips * _BYTES_PER_KNOWN_CLIP <= in_process_bytes
    if not is_small and not is_on_ray():
        start_ray()
    runner = InProcess() if is_small else OnRay(len(blocks), cfg.tasks.node_labels)
    reader, numbers = BlockReader(plan, tables, TakenDown(takedowns)), range(len(blocks))
    tables.step("blocks", lambda: _read_blocks(cfg, reader, blocks, is_small))
    try:
        check_rejects(cfg, reader.counts(len(numbers), files))
    except ConfigError:
        write_rejects(uri, (tables.read("rejects", number) for number in numbers))
        raise
    selection = Selection(
        runner=runner,
        tables=tables,
        work=plan.work,
        blocks=numbers,
        val_fraction=cfg.val_fraction,
        drop_duplicates=cfg.filters.drop_duplicates,
        sets=sets,
    )
    with telling_damage():
        return selection.run()


def _read_blocks(
    cfg: PreprocessConfig, reader: BlockReader, blocks: Blocks, is_small: bool
) -> list[int]:
    """Reads all blocks, in this process or in tasks."""
    numbers = list(range(len(blocks)))
    if is_small:
        for number, block in enumerate(blocks):
            reader.read(number, block)
        return numbers
    with Progress("rows", len(blocks), "blocks") as progress:
        calls = ((number, (reader, number, block)) for number, block in enumerate(blocks))
        _run_tasks(cfg, _read_block, calls, progress)
    return numbers


def _read_block(reader: BlockReader, number: int, block: Block) -> str | None:
    """Reads one block, as one task. Returns an error message, or None."""
    try:
        reader.read(number, block)
    except OSError as error:
        return str(error)
    return None


def _run_tasks(
    cfg: PreprocessConfig,
    function: Callable[..., str | None],
    calls: Iterable[tuple[object, tuple[object, ...]]],
    progress: Progress,
) -> None:
    """Runs calls as tasks. They return an error of the storage as text, which is raised."""
    made = run_tasks(function, calls, cfg.tasks)
    for num_done, (_, error) in enumerate(made, start=1):
        if error:
            raise storage.StorageError(error)
        progress.update(num_done)


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
def telling_rejects(uri: str) -> Iterator[None]:
    """Appends the URI of ``rejects.parquet``, if it is there, to a ConfigError of the block."""
    try:
        yield
    except ConfigError as error:
        rejects = storage.join(uri, "rejects.parquet")
        if not storage.is_file(rejects):  # such as when no Ray could be started
            raise
        raise ConfigError(f"{error} All rejects are in {rejects}.") from None


@contextmanager
def rejects_of_made_parts(plan: Plan, uri: str) -> Iterator[None]:
    """Writes ``rejects.parquet`` from the parts made so far if the block raises a ConfigError."""
    try:
        yield
    except ConfigError:
        write_reject_rows(uri, (row for item in read_made_parts(plan) for row in item.rejects))
        raise


def make_shards(
    cfg: PreprocessConfig, layouts: Iterable[ShardLayout], tables: Tables, work: str, uri: str
) -> list[str]:
    """Composes the shards that are missing or hold other clips, one task per shard.

    Returns:
        The names of all shards.
    """
    shards: list[str] = []

    def calls() -> Iterator[tuple[str, tuple[ShardLayout, Tables, str, str, bool]]]:
        for layout in layouts:
            shards.append(layout.shard)
            yield layout.shard, (layout, tables, work, uri, cfg.filters.drop_duplicates)

    with Progress(f"shards {cfg.name}", 0, "shards") as progress:
        _run_tasks(cfg, make_shard, calls(), progress)
    return shards


def make_shard(
    layout: ShardLayout, tables: Tables, work: str, uri: str, has_signatures: bool
) -> str | None:
    """Composes one shard unless it is complete, as one task.

    Returns:
        An error message, or None.
    """
    try:
        spans = layout.spans
        rows = [tables.read("kept", table).slice(first, num) for table, first, num in spans]
        clips = clip_rows(pa.concat_tables(rows))
        if not is_made(layout.shard, clips, uri):
            write_shard(layout.shard, layout.split, clips, work, uri, has_signatures)
    except OSError as error:
        return str(error)
    return None
