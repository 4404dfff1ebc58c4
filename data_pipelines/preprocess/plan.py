"""Plans which inputs go to which task, and stores the plan in chunks while the listing streams."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from data_pipelines.preprocess.config import TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts, FileTable
from data_pipelines.preprocess.rows import VideoItem
from lafp import storage
from lafp.storage import strict_json

CHUNK_ITEMS = 5_000
"""Number of inputs in one file of the plan. The driver holds one such file at a time."""
SELECTIONS = "select"
"""Folder, beside the plan, of the tables of selections."""
_PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Holds the work of one task."""

    part: str
    """Path, below the work folder and without suffix, of the part to make. Parts of one chunk of
    the plan share a folder."""
    items: tuple[VideoItem, ...]
    share: float = 1.0
    """The task's share of its items' work: less than 1 for a piece of a long video."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Describes a stored plan."""

    work: str
    """URI of the work folder."""
    num_chunks: int
    num_items: int
    num_bytes: int
    """Bytes of the items whose size the listing knows."""
    num_unsized: int
    """Number of items whose size the listing does not know."""
    files: FileTable
    """Counts of the listing."""

    def tasks(self, chunk: int) -> Iterator[Task]:
        """Yields the tasks of one chunk, in the order of the listing."""
        tasks = strict_json.read(list[tuple[VideoItem, ...]], _chunk_uri(self.work, chunk))
        for number, items in enumerate(tasks):
            yield Task(part=f"{chunk_folder(chunk)}/part-{number:06d}", items=items)


def make_plan(
    items: Iterable[VideoItem], cfg: TasksConfig, work: str, counts: FileCounts | None = None
) -> Plan:
    """Divides the inputs among tasks and stores the plan; a resumed job reads the stored one.

    Args:
        items: The listing. It is not read if the plan is already stored.
        cfg: Limits of a task.
        work: Folder of the plan.
        counts: Counts of the listing, which are complete once ``items`` is exhausted.
    """
    uri = storage.join(work, _PLAN)
    if not storage.is_file(uri):
        num_chunks = num_items = num_bytes = num_unsized = 0
        for chunk in _chunks(items, cfg):
            strict_json.write(_chunk_uri(work, num_chunks), chunk)
            num_chunks, num_items = num_chunks + 1, num_items + sum(map(len, chunk))
            sizes = [item.num_bytes for task in chunk for item in task]
            num_bytes, num_unsized = num_bytes + sum(sizes), num_unsized + sizes.count(0)
        # Written last: if this file is missing, the sources are listed again.
        plan = Plan(
            work=work,
            num_chunks=num_chunks,
            num_items=num_items,
            num_bytes=num_bytes,
            num_unsized=num_unsized,
            files=(counts or FileCounts()).table(),
        )
        strict_json.write(uri, plan)
    return replace(strict_json.read(Plan, uri), work=work)


def chunk_folder(chunk: int) -> str:
    """Returns the folder of one chunk's parts, below the work folder."""
    return f"{chunk:06d}"


def _chunk_uri(work: str, chunk: int) -> str:
    return storage.join(work, f"plan-{chunk:06d}.json")


def _chunks(items: Iterable[VideoItem], cfg: TasksConfig) -> Iterator[list[tuple[VideoItem, ...]]]:
    chunk: list[tuple[VideoItem, ...]] = []
    num_items = 0
    for task in _deal(items, cfg):
        chunk.append(task)
        num_items += len(task)
        if num_items >= CHUNK_ITEMS:
            yield chunk
            chunk, num_items = [], 0
    if chunk:
        yield chunk


def _deal(items: Iterable[VideoItem], cfg: TasksConfig) -> Iterator[tuple[VideoItem, ...]]:
    task: list[VideoItem] = []
    for item in items:
        # The plan is stored, and so holds no secret (``secret_uris``).
        task.append(replace(item, secret_uri="") if item.secret_uri else item)
        is_full = sum(i.num_bytes for i in task) >= cfg.bytes_per_task
        if is_full or len(task) == cfg.videos_per_task:
            yield tuple(task)
            task = []
    if task:
        yield tuple(task)
