"""The plan: which inputs go to which task. Stored in chunks while the listing streams."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from data_pipelines.preprocess.config import TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.rows import VideoItem
from lafp import storage
from lafp.storage import strict_json

CHUNK_ITEMS = 5_000
"""Inputs in one file of the plan: what the driver holds of it at a time."""
_PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Task:
    """The work of one Ray task."""

    part: str
    """What it makes: path of a part below the work folder, without suffix. Parts of one chunk of
    the plan share a folder."""
    items: tuple[VideoItem, ...]
    share: float = 1.0
    """Of the items' work: a piece of a long video is a part of it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A stored plan."""

    work: str
    """URI of the work folder."""
    num_chunks: int
    num_items: int
    num_bytes: int
    """Of the items, as far as the listing knows them."""
    num_unsized: int
    """Items of which it does not."""
    files: dict[str, Any]
    """What was listed (``FileCounts.to_dict``)."""

    def tasks(self, chunk: int) -> Iterator[Task]:
        """The tasks of one chunk, in the order of the listing."""
        for number, items in enumerate(json.loads(storage.read_text(_chunk_uri(self.work, chunk)))):
            yield Task(
                part=f"{chunk_folder(chunk)}/part-{number:06d}",
                items=tuple(VideoItem(**item) for item in items),
            )


def make_plan(
    items: Iterable[VideoItem], cfg: TasksConfig, work: str, counts: FileCounts | None = None
) -> Plan:
    """Deals the inputs out to tasks, once: a resumed job sees the listing that it began with.

    Args:
        items: The listing. Not touched when the plan is there already.
        cfg: What a task takes.
        work: Folder of the plan.
        counts: What is listed, complete when ``items`` are at their end.
    """
    uri = storage.join(work, _PLAN)
    if not storage.is_file(uri):
        num_chunks = num_items = num_bytes = num_unsized = 0
        for chunk in _chunks(items, cfg):
            text = strict_json.dumps([[asdict(item) for item in task] for task in chunk])
            storage.write_text(_chunk_uri(work, num_chunks), text)
            num_chunks, num_items = num_chunks + 1, num_items + sum(map(len, chunk))
            sizes = [item.num_bytes for task in chunk for item in task]
            num_bytes, num_unsized = num_bytes + sum(sizes), num_unsized + sizes.count(0)
        # Written last: a plan without it is listed anew.
        plan = {
            "num_chunks": num_chunks,
            "num_items": num_items,
            "num_bytes": num_bytes,
            "num_unsized": num_unsized,
            "files": (counts or FileCounts()).to_dict(),
        }
        storage.write_text(uri, strict_json.dumps(plan))
    return Plan(work=work, **json.loads(storage.read_text(uri)))


def chunk_folder(chunk: int) -> str:
    """Where the parts of one chunk lie, below the work folder."""
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
        task.append(item)
        is_full = sum(i.num_bytes for i in task) >= cfg.bytes_per_task
        if is_full or len(task) == cfg.videos_per_task:
            yield tuple(task)
            task = []
    if task:
        yield tuple(task)
