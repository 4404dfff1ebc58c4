"""Selects the clips of items in this process, as the job does with the parts of a small source."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rejects import RejectRow, reject_rows
from data_pipelines.preprocess.rows import ClipRow, ItemRows
from data_pipelines.preprocess.select.blocks import clip_rows, store_block
from data_pipelines.preprocess.select.finished_sets import FinishedSets, telling_damage
from data_pipelines.preprocess.select.selection import Selected, Selection
from data_pipelines.preprocess.select.steps import InProcess, Runner, Tables
from data_pipelines.preprocess.taken_down import Takedown, TakenDown


def select_items(
    cfg: PreprocessConfig,
    items: Iterable[ItemRows],
    work: Path,
    sets: FinishedSets | None = None,
    takedowns: Iterable[Takedown] = (),
    name: str = "select",
) -> Selected:
    """What is decided about items, whose parts and signatures are below ``work``."""
    taken_down = TakenDown(takedowns)
    return select_blocks(cfg, [[taken_down.applied(item) for item in items]], work, sets, name)


def select_blocks(
    cfg: PreprocessConfig,
    blocks: Iterable[Iterable[ItemRows]],
    work: Path,
    sets: FinishedSets | None = None,
    name: str = "select",
    runner: Runner | None = None,
) -> Selected:
    """What is decided about blocks of items."""
    tables, number = Tables(str(work / name)), -1
    for number, items in enumerate(blocks):
        store_block(tables, number, items)
    selection = Selection(
        runner=runner or InProcess(),
        tables=tables,
        work=str(work),
        blocks=range(number + 1),
        val_fraction=cfg.val_fraction,
        drop_duplicates=cfg.filters.drop_duplicates,
        sets=sets or FinishedSets(),
    )
    with telling_damage():
        return selection.run()


def kept_clips(selected: Selected) -> Iterator[ClipRow]:
    """The clips that are kept, in the order of the shards."""
    for number in selected.kept:
        yield from clip_rows(selected.clips(number))


def rejects_of(selected: Selected) -> list[RejectRow]:
    """All rejects."""
    return list(reject_rows(selected.rejects()))
