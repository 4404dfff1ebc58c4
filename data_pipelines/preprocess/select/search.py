"""Searches a source for near-duplicates: a small one in memory, a larger one block by block.

Both ways call the functions of ``select.duplicates``, the first with all clips, the second with
blocks of clips (``select.steps``).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa

from data_pipelines.preprocess.select.duplicates import (
    NO_MATCHES,
    candidates,
    find_in_memory,
    keys_of,
    known_in,
    links,
    originals,
    others_of,
    ranked,
    taken,
    unlike_the_first,
    verified,
)
from data_pipelines.preprocess.select.finished_sets import (
    FinishedSets,
    described,
    known_signatures,
)
from data_pipelines.preprocess.select.signatures import signatures_of
from data_pipelines.preprocess.select.steps import (
    BUCKET,
    InProcess,
    Runner,
    Step,
    Tables,
    block_of,
    column,
    group_number,
    runner_for,
    to_block,
    without_bucket,
)
from lafp.storage.map_ahead import map_ahead

_SIGNATURES_PER_BATCH = 2_048  # 6 MB


class Search:
    """Finds the near-duplicates among the clips of a source, and of clips of finished sets.

    It stores ``originals`` (``clip``, which is dropped, and its ``original``, which is kept),
    ``links`` (pairs of videos, ``video`` and ``other_video``, that share a clip; a negative
    ``other_video`` is the number of a clip of a finished set) and ``known``
    (``finished_sets.KNOWN`` of the clips of finished sets that a clip or a video repeats).

    Args:
        runner: Runs the steps.
        tables: Where they are stored.
        work: Folder of the parts.
        blocks: Numbers of the blocks of the source.
        left: Returns the clips of one of these blocks that are compared: ``clip``, sorted,
            ``video``, ``part`` and ``video_offset``.
        sets: Finished sets.
    """

    def __init__(
        self,
        runner: Runner,
        tables: Tables,
        work: str,
        blocks: range,
        left: Callable[[int], pa.Table],
        sets: FinishedSets,
    ) -> None:
        self._runner, self._tables = runner, tables
        self._blocks, self._sets = blocks, sets
        self._tasks = _Tasks(tables, work, left, 2 * self._num_blocks)

    def steps(self) -> dict[str, Callable[[], list[int]]]:
        """Returns the steps by name, in order (``Tables.step``)."""
        pairs = self._in_memory() if isinstance(self._runner, InProcess) else self._on_blocks()
        return {
            "ranges": self._store_ranges,
            **pairs,
            "found": lambda: self._run([0], self._tasks.found),
            "known": self._known,
        }

    @property
    def _num_blocks(self) -> int:
        return len(self._blocks) + self._sets.num_blocks

    def _store_ranges(self) -> list[int]:
        for _ in map_ahead(lambda block: self._tables.write("ranges", *block), self._sets.blocks()):
            pass
        return list(range(-self._sets.num_blocks, 0))

    def _in_memory(self) -> dict[str, Callable[[], list[int]]]:
        """Returns the steps that find the pairs with all signatures in memory."""
        return {"matches": self._all_matches, "more": list}

    def _all_matches(self) -> list[int]:
        known = [known_signatures(ranges) for _, ranges in self._sets.blocks()]
        of_source = [self._tasks.signatures(number) for number in self._blocks]
        self._tables.write("matches", 0, find_in_memory(pa.concat_tables([*known, *of_source])))
        return [0]

    def _on_blocks(self) -> dict[str, Callable[[], list[int]]]:
        """Returns the steps that find the pairs block by block."""
        return {
            "pairs": self._ranked,
            "matches": lambda: self._verified("pairs", "matches"),
            "found_open": lambda: self._run([0], self._tasks.open),
            "open": self._open,
            "more": lambda: self._verified("open", "more"),
        }

    def _ranked(self) -> list[int]:
        numbers, run = [*range(-self._sets.num_blocks, 0), *self._blocks], self._runner
        keys = run.tables(numbers, self._tasks.keys)
        counts = run.grouped(keys, 2 * self._num_blocks, to_block(candidates, "clip"))
        return run.run(run.grouped(counts, self._num_blocks, self._tables.stored(ranked, "pairs")))

    def _verified(self, source: str, name: str) -> list[int]:
        if not (numbers := self._tables.numbers(source)):
            return []
        # No task needs the signatures of more than one block, and of the clips that it compares
        # its own with: a block names these once each, and gets their signatures from their blocks.
        run, tasks = self._runner, self._tasks
        wanted = run.tables(numbers, to_block(partial(tasks.wanted, source), "clip"))
        others = run.grouped(wanted, self._num_blocks, tasks.sent)
        matches = self._tables.stored(partial(tasks.matches, source), name)
        return run.run(run.grouped(others, self._num_blocks, matches))

    def _open(self) -> list[int]:
        if not self._tables.numbers("found_open"):
            return []
        runner = runner_for(self._runner, self._tables, "found_open", [0], self._num_blocks)
        rows = runner.tables([0], to_block(partial(self._tasks.table, "found_open"), "clip"))
        stored = self._tables.stored(without_bucket, "open")
        return runner.run(runner.grouped(rows, self._num_blocks, stored))

    def _known(self) -> list[int]:
        known = column(self._tables.read("known_clips", 0), "clip")
        blocks = np.unique(block_of(known)).tolist()
        if not blocks:
            return []
        return self._run(blocks, self._tables.stored(self._tasks.described, "known"))

    def _run(self, numbers: Iterable[int], function: Step) -> list[int]:
        return self._runner.run(self._runner.tables(numbers, function))


def _matches(tables: Tables, *steps: str) -> pa.Table:
    """Reads all matches, which are few: 32 bytes each, and most clips have none."""
    found = (map_ahead(partial(tables.read, step), tables.numbers(step)) for step in steps)
    return pa.concat_tables([NO_MATCHES, *chain.from_iterable(found)])


class _Tasks:
    """Holds what runs in the tasks. Each Ray task gets a copy, which is only names and numbers."""

    def __init__(
        self, tables: Tables, work: str, left: Callable[[int], pa.Table], num_buckets: int
    ) -> None:
        self.tables, self._work, self._left, self._num_buckets = tables, work, left, num_buckets

    def signatures(self, number: int) -> pa.Table:
        """Reads the signatures of a block of the source from beside its parts."""
        return signatures_of(self._left(number), self._work)

    def keys(self, block: pa.Table) -> pa.Table:
        number = group_number(block)
        if number < 0:
            signatures = known_signatures(self.tables.read("ranges", number))
        else:
            signatures = self.signatures(number)
        # Later steps read them several times, and then from one table, not from many parts.
        self.tables.write("signatures", number, signatures)
        keys = keys_of(signatures)
        buckets = column(keys, "key") % np.uint64(self._num_buckets)
        return keys.append_column(BUCKET, pa.array(buckets, pa.int32()))

    def wanted(self, source: str, block: pa.Table) -> pa.Table:
        """Returns the clips that a block's are compared with, and to which block they are sent."""
        others = others_of(self.table(source, block))
        to = np.full(len(others), group_number(block), np.int32)
        return pa.table({"clip": others, "to": to})

    def sent(self, wanted: pa.Table) -> Iterator[pa.Table]:
        """Yields the signatures of one block that others want, with few of them in memory."""
        signatures = self.table("signatures", wanted)
        for start in range(0, len(wanted), _SIGNATURES_PER_BATCH):
            batch = wanted.slice(start, _SIGNATURES_PER_BATCH)
            found = taken(signatures, column(batch, "clip"))
            yield found.append_column(BUCKET, batch["to"])

    def matches(self, source: str, others: pa.Table) -> pa.Table:
        """Compares the clips of a block with those whose signatures were sent to it."""
        pairs, signatures = self.table(source, others), self.table("signatures", others)
        return verified(pairs, signatures, others.sort_by("clip"))

    def table(self, name: str, group: pa.Table) -> pa.Table:
        """Reads the table of a step that belongs to a group."""
        return self.tables.read(name, group_number(group))

    def open(self, _: pa.Table) -> pa.Table:
        """Finds the pairs that must be compared too, with all matches in memory."""
        pairs = unlike_the_first(_matches(self.tables, "matches"))
        self.tables.write("found_open", 0, pairs)
        return pa.table({"number": pa.array([0] if len(pairs) else [], pa.int64())})

    def found(self, _: pa.Table) -> pa.Table:
        """Decides with all matches in memory."""
        matches = _matches(self.tables, "matches", "more")
        self.tables.write("originals", 0, originals(matches))
        self.tables.write("links", 0, links(matches))
        self.tables.write("known_clips", 0, pa.table({"clip": known_in(matches)}))
        return pa.table({"number": [0]})

    def described(self, block: pa.Table) -> pa.Table:
        number = group_number(block)
        known = column(self.tables.read("known_clips", 0), "clip")
        return described(self.tables.read("ranges", number), known[block_of(known) == number])
