"""Divides the parts of a plan into blocks, and reads each block in a task."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from data_pipelines.preprocess.file_counts import FileCounts, FileTable
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.parts import PartCounts, count_part, read_parts
from data_pipelines.preprocess.plan import Plan, chunk_folder
from data_pipelines.preprocess.rejects import RejectCounts, RejectRow
from data_pipelines.preprocess.rows import ItemRows
from data_pipelines.preprocess.select.blocks import Block, store_block
from data_pipelines.preprocess.select.steps import Tables
from data_pipelines.preprocess.taken_down import TakenDown
from lafp import storage
from lafp.data.shards.format import entry_name
from lafp.storage import strict_json

BLOCK_BYTES = 2 * 2**20
"""Most bytes of the entries of a block's parts: some 2,000 clips, or 200 with actions, whose
signatures and candidates are in the memory of a task. A larger part is a block of its own."""


@dataclass(frozen=True)
class Blocks:
    """Says which tasks' parts are a block, and how many bytes the entries of all parts have."""

    bounds: np.ndarray
    """int64 [N, 3]: the fields of each ``Block``, because a large source has millions."""
    num_bytes: int
    digest: str
    """A hash of the names and sizes of all parts' entries, and of the bounds."""

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[Block]:
        for chunk, first, end in self.bounds:
            yield Block(chunk=int(chunk), first=int(first), end=int(end))


def divide(plan: Plan, block_bytes: int = BLOCK_BYTES) -> Blocks:
    """Divides a plan, all of whose parts are made, into blocks.

    Args:
        plan: The plan.
        block_bytes: See ``BLOCK_BYTES``.
    """
    bounds = array("q")
    digest, total = sha256(), 0
    for chunk in range(plan.num_chunks):
        # One listing per chunk instead of one request per part.
        sizes: Counter[str] = Counter()
        for info in storage.list_files(storage.join(plan.work, chunk_folder(chunk))):
            name = info.uri.rpartition("/")[2]
            if name.endswith(".json"):
                # Entries of the pieces of a long video count with the part that names them.
                sizes["-".join(name.removesuffix(".json").split("-")[:2])] += info.num_bytes
                digest.update(f"{chunk}/{name} {info.num_bytes}\n".encode())
        first = num_bytes = number = 0
        for number, task in enumerate(plan.tasks(chunk)):
            size = sizes[entry_name(task.part.rpartition("/")[2]).removesuffix(".json")]
            if number > first and num_bytes + size > block_bytes:
                bounds.extend((chunk, first, number))
                first, num_bytes = number, 0
            num_bytes += size
        bounds.extend((chunk, first, number + 1))
        total += sizes.total()
    digest.update(bounds.tobytes())
    return Blocks(np.asarray(bounds).reshape(-1, 3), total, digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class BlockCounts:
    """Counts what the inputs of a block came to."""

    num_videos: int
    num_empty: int
    spans: dict[str, int]
    examples: dict[str, list[RejectRow]]
    members: FileTable
    """Counts of members of tars."""


class BlockReader:
    """Reads blocks, in tasks. Each Ray task gets a copy.

    It checks that clips and rejects account for every second of each video, and obeys takedowns.
    """

    def __init__(self, plan: Plan, tables: Tables, taken_down: TakenDown) -> None:
        self._plan, self._tables, self._taken_down = plan, tables, taken_down

    def read(self, number: int, block: Block) -> None:
        """Stores the tables and counts of one block.

        Raises:
            StorageError: A part is gone. The resumed job makes it anew.
        """
        items: list[ItemRows] = []
        counts, files = PartCounts(), FileCounts()
        for task, of_part in read_parts(self._plan, block):
            counts.add(count_part(task, of_part))
            for item in of_part:
                check_accounts(item)
                files.add_members(item)
            items += map(self._taken_down.applied, of_part)
        store_block(self._tables, number, items)
        found = BlockCounts(
            num_videos=counts.num_videos,
            num_empty=counts.num_empty,
            spans=dict(counts.rejects.spans),
            examples=counts.rejects.examples,
            members=files.table(),
        )
        self._tables.write_record("counts", number, found)

    def counts(self, num_blocks: int, files: FileCounts) -> PartCounts:
        """Returns the counts of all blocks; those of members of tars are added to ``files``."""
        counts = PartCounts()
        for found in self._tables.records("counts", range(num_blocks), BlockCounts):
            rejects = RejectCounts(Counter(found.spans), found.examples)
            counts.add(
                PartCounts(num_videos=found.num_videos, num_empty=found.num_empty, rejects=rejects)
            )
            files.add_table(found.members)
        return counts


def fingerprint(*parts: object) -> str:
    """Returns a short hash that names the folder of a selection."""
    return sha256(strict_json.dumps(parts).encode()).hexdigest()[:16]
