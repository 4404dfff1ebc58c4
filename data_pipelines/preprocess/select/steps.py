"""Runs the steps of a selection: functions from tables to tables, one call per block or group.

A small source is gone through in this process, a larger one on Ray Data, which brings the rows of a
group together and spills what does not fit into memory. Both call the same functions. Each step
stores its tables below one folder and then a list of them, so that a job that was killed goes on
after its last complete step.
"""

import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from lafp import storage
from lafp.config import ConfigError
from lafp.config.node_labels import label_selector
from lafp.storage import strict_json
from lafp.storage.map_ahead import map_ahead
from lafp.storage.strict_json import DamagedError
from lafp.storage.tables import num_rows, read_table, write_table

if TYPE_CHECKING:
    from ray.data import Dataset

T = TypeVar("T")
Step = Callable[[pa.Table], pa.Table]
YieldingStep = Callable[[pa.Table], pa.Table | Iterator[pa.Table]]
"""A step that may also yield its rows table by table, so that few are in memory."""
BUCKET = "bucket"
"""Column that says to which group a row goes."""
_BITS_OF_ROW = 32
_MARK = "lafp says "
_MARKED = re.compile(_MARK + r"(\[.*\])")
_KINDS: dict[str, type[Exception]] = {
    "config": ConfigError,
    "damage": DamagedError,
    "storage": storage.StorageError,
}
# A shuffle makes a shard for every pair of a block and a partition. A shard of a few rows is mostly
# overhead, so a partition takes several groups.
_GROUPS_PER_PARTITION, _MIN_PARTITIONS, _MAX_PARTITIONS = 8, 16, 1_024
# A partition is in the memory of a task: so many groups of keys, 2 MB each, have 512 MB. Up to then
# the partitions grow instead of their number, because the driver keeps a list of the shards.
_MOST_GROUPS_PER_PARTITION = 256
# Few rows that go to few blocks are brought together in this process.
_IN_PROCESS_ROWS, _IN_PROCESS_BLOCKS = 100_000, 1_000
# Ray Data's default begins processes for each shuffle, which takes 6 s. Sorting begins none, but
# the driver's memory grows with the square of the partitions: by 370 MiB with 200 of them.
_FEW_BLOCKS = 100


def first_number(block: int) -> int:
    """Returns the number of the first video, or clip, of a block; the others follow it."""
    return block << _BITS_OF_ROW


def block_of(numbers: np.ndarray) -> np.ndarray:
    """Returns the blocks in which videos or clips lie, by their numbers."""
    return numbers >> _BITS_OF_ROW


def group_number(group: pa.Table) -> int:
    """Returns the number of the block or group that a function was called for."""
    return group[BUCKET][0].as_py()


def column(table: pa.Table, name: str) -> np.ndarray:
    """Returns a column as an array."""
    return table[name].to_numpy()


class Runner(Protocol):
    """Calls functions for blocks and groups."""

    def tables(self, numbers: Iterable[int], function: YieldingStep) -> Any:
        """Calls a function once for each of these numbers, which stand in ``BUCKET``."""
        ...

    def grouped(self, rows: Any, num_buckets: int, function: YieldingStep) -> Any:
        """Calls a function for the rows of each group.

        Args:
            rows: Rows of ``tables`` or ``grouped``, with a column ``BUCKET``.
            num_buckets: About how many groups there are.
            function: It gets all rows of one group.
        """
        ...

    def run(self, rows: Any) -> list[int]:
        """Runs everything. Returns the numbers in the column ``number`` of the rows, sorted."""
        ...


class InProcess:
    """Runs steps in this process, with all rows in memory."""

    def tables(self, numbers: Iterable[int], function: YieldingStep) -> list[pa.Table]:
        """See ``Runner``."""
        blocks = (pa.table({BUCKET: [number]}) for number in numbers)
        return [table for block in blocks for table in _made(function, block)]

    def grouped(
        self, rows: Sequence[pa.Table], num_buckets: int, function: YieldingStep
    ) -> list[pa.Table]:
        """See ``Runner``."""
        rows = [table for table in rows if len(table)]
        if not rows:
            return []
        whole = pa.concat_tables(rows).sort_by(BUCKET)
        buckets, starts = np.unique(column(whole, BUCKET), return_index=True)
        ends = [*starts[1:], len(whole)]
        return [
            table
            for _, start, end in zip(buckets, starts, ends, strict=True)
            for table in _made(function, whole.slice(start, end - start))
        ]

    def run(self, rows: Sequence[pa.Table]) -> list[int]:
        """See ``Runner``."""
        return sorted(number for table in rows for number in column(table, "number").tolist())


class OnRay:
    """Runs steps on Ray Data.

    Args:
        num_blocks: Number of blocks of the source.
        node_labels: Labels of the nodes that may run the tasks (``TasksConfig``).
    """

    def __init__(self, num_blocks: int, node_labels: tuple[str, ...] = ()) -> None:
        self._sorts, self._selector = num_blocks <= _FEW_BLOCKS, label_selector(node_labels)

    def tables(self, numbers: Iterable[int], function: YieldingStep) -> "Dataset":
        """See ``Runner``."""
        import ray.data
        from ray.data.context import ShuffleStrategy

        rows = ray.data.from_items([{BUCKET: number} for number in numbers])
        if self._sorts:
            rows.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
        elif self._selector:
            # The default shuffle of Ray 2.60 asks for no labels, neither for its tasks nor for the
            # functions that it joins with them.
            rows.context.shuffle_strategy = ShuffleStrategy.HASH_SHUFFLE
        return rows.map_batches(_marked(function), batch_size=1, batch_format="pyarrow")

    def grouped(self, rows: "Dataset", num_buckets: int, function: YieldingStep) -> "Dataset":
        """See ``Runner``."""
        wanted = max(_MIN_PARTITIONS, num_buckets // _GROUPS_PER_PARTITION)
        least = -(-num_buckets // _MOST_GROUPS_PER_PARTITION)
        num_partitions = min(num_buckets, max(least, min(wanted, _MAX_PARTITIONS)))
        grouped = rows.groupby(BUCKET, num_partitions=num_partitions)
        return grouped.map_groups(_marked(function), batch_format="pyarrow")

    def run(self, rows: "Dataset") -> list[int]:
        """See ``Runner``.

        Raises:
            StorageError: A task could not read or write.
            DamagedError: A stored table is damaged.
            ConfigError: As a function says.
        """
        from ray.exceptions import RayTaskError

        _keep_notes_off_the_terminal()
        rows.context.enable_progress_bars = False
        rows.context.execution_options.label_selector = dict(self._selector) or None
        try:
            tables = rows.iter_batches(batch_size=None, batch_format="pyarrow")
            numbers = [column(table, "number") for table in tables if len(table)]
            return sorted(np.concatenate([np.zeros(0, np.int64), *numbers]).tolist())
        except RayTaskError as error:
            if found := _MARKED.search(str(error)):
                kind, text = strict_json.loads(tuple[str, str], found[1])
                raise _KINDS[kind](text) from None
            raise


class Tables:
    """Stores the tables of steps below a folder. Each Ray task gets a copy, which is only a name.

    Args:
        folder: URI of the folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def uri(self, name: str, number: int) -> str:
        """Returns where the table of a step for a block or group is stored."""
        return storage.join(self.folder, name, f"{number:06d}.parquet")

    def read(self, name: str, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads a table."""
        return read_table(self.uri(name, number), columns)

    def read_if_any(self, name: str, number: int, schema: pa.Schema) -> pa.Table:
        """Reads a table of a step that stores tables for some blocks only."""
        uri = self.uri(name, number)
        return read_table(uri) if storage.is_file(uri) else schema.empty_table()

    def write(self, name: str, number: int, table: pa.Table) -> None:
        """Stores a table."""
        write_table(self.uri(name, number), table)

    def stored(self, function: Step, name: str) -> Step:
        """Stores what a function makes of a block or group, and returns only its number."""

        def store(table: pa.Table) -> pa.Table:
            number = group_number(table)
            self.write(name, number, function(table))
            return pa.table({"number": [number]})

        return store

    def write_record(self, name: str, number: int, record: object) -> None:
        """Stores a record beside the table of a step for a block or group."""
        strict_json.write(self._record_uri(name, number), record)

    def records(self, name: str, numbers: Iterable[int], kind: type[T]) -> Iterator[T]:
        """Reads the records of a step, a few ahead."""
        uris = (self._record_uri(name, number) for number in numbers)
        return map_ahead(partial(strict_json.read, kind), uris)

    def step(self, name: str, run: Callable[[], list[int]]) -> None:
        """Runs a step unless it is complete.

        Args:
            name: Name of the step.
            run: Returns the numbers of the tables that it has stored.
        """
        if not self.is_complete(name):
            strict_json.write(self._list_uri(name), run())

    def is_complete(self, name: str) -> bool:
        """Says whether a step has run."""
        return storage.is_file(self._list_uri(name))

    def numbers(self, name: str) -> list[int]:
        """Returns the numbers of the tables that a complete step has stored."""
        return strict_json.read(list[int], self._list_uri(name))

    def _list_uri(self, name: str) -> str:
        return storage.join(self.folder, f"{name}.json")

    def _record_uri(self, name: str, number: int) -> str:
        return storage.join(self.folder, name, f"{number:06d}.json")


def runner_for(
    runner: Runner, tables: Tables, name: str, numbers: Sequence[int], num_blocks: int
) -> Runner:
    """Returns a runner for the rows of a step: to begin one on Ray takes seconds.

    Args:
        runner: Runs many rows.
        tables: Holds the tables of the step.
        name: Name of the step.
        numbers: Numbers of its tables.
        num_blocks: Number of blocks to which the rows go.
    """
    if num_blocks > _IN_PROCESS_BLOCKS:
        return runner
    found = map_ahead(num_rows, (tables.uri(name, number) for number in numbers))
    return InProcess() if sum(found) <= _IN_PROCESS_ROWS else runner


def _made(function: YieldingStep, table: pa.Table) -> Iterator[pa.Table]:
    made = function(table)
    yield from [made] if isinstance(made, pa.Table) else made


def _marked(function: YieldingStep) -> YieldingStep:
    """Marks errors that a user can mend, because Ray Data passes on only the text of an error."""

    def marked(table: pa.Table) -> Iterator[pa.Table]:
        try:
            yield from _made(function, table)
        except (ConfigError, DamagedError, OSError) as error:
            kind = next(
                (k for k in ("config", "damage") if isinstance(error, _KINDS[k])), "storage"
            )
            raise RuntimeError(f"{_MARK}{strict_json.dumps([kind, str(error)])}") from None

    return marked


def to_block(function: YieldingStep, name: str) -> YieldingStep:
    """Sends each row that a function makes to the block of the video or clip in a column."""

    def bucketed(table: pa.Table) -> Iterator[pa.Table]:
        for made in _made(function, table):
            buckets = block_of(column(made, name))
            yield made.append_column(BUCKET, pa.array(buckets, pa.int32()))

    return bucketed


def to_group(table: pa.Table, name: str, num_buckets: int) -> pa.Table:
    """Sends rows with an equal text in a column to one group."""
    buckets = [zlib.crc32(text.encode()) % num_buckets for text in table[name].to_pylist()]
    return table.append_column(BUCKET, pa.array(buckets, pa.int32()))


def without_bucket(table: pa.Table) -> pa.Table:
    """Returns a group's rows without the column that brought them together."""
    return table.drop_columns([BUCKET])


def _keep_notes_off_the_terminal() -> None:
    """Leaves Ray Data's notes to its log file, because the job shows progress of its own."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)
