"""Writes one long table as several parquet files of bounded size, with a row group in memory."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lafp.storage.tables import ROWS_PER_GROUP, open_tables

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def open_divided_table(
    uri_of: Callable[[int], str], schema: "pa.Schema", rows_per_file: int
) -> "Iterator[Callable[[pa.Table], None]]":
    """Opens a table that is divided into files of ``rows_per_file`` rows; the last has the rest.

    Each file appears when it is full, the last one after the block. The division does not depend
    on the sizes of the tables that are added.

    Args:
        uri_of: Number of a file, from 0 on -> its URI.
        schema: Columns.
        rows_per_file: A multiple of ``ROWS_PER_GROUP``.

    Yields:
        Appends the schema's columns of a table.
    """
    with ExitStack() as stack:
        divided = _DividedTable(uri_of, schema, rows_per_file, stack)
        yield divided.add
        divided.close()


class _DividedTable:
    def __init__(
        self,
        uri_of: Callable[[int], str],
        schema: "pa.Schema",
        rows_per_file: int,
        stack: ExitStack,
    ) -> None:
        assert rows_per_file % ROWS_PER_GROUP == 0
        self._uri_of, self._schema, self._rows_per_file = uri_of, schema, rows_per_file
        self._stack = stack
        self._waiting = schema.empty_table()
        self._add: Callable[[pa.Table], None] | None = None
        self._num_files = self._num_rows = 0

    def add(self, table: "pa.Table") -> None:
        """Writes all whole row groups. The rest waits."""
        import pyarrow as pa

        self._waiting = pa.concat_tables([self._waiting, table.select(self._schema.names)])
        while len(self._waiting) >= ROWS_PER_GROUP:
            self._write(self._waiting.slice(0, ROWS_PER_GROUP))
            self._waiting = self._waiting.slice(ROWS_PER_GROUP)

    def close(self) -> None:
        """Writes what is left. A table without rows still has one file."""
        if len(self._waiting) or not self._num_files:
            self._write(self._waiting)
        self._stack.close()

    def _write(self, group: "pa.Table") -> None:
        if self._add is None:
            uri = self._uri_of(self._num_files)
            self._add = self._stack.enter_context(open_tables(uri, self._schema))
            self._num_files += 1
        self._add(group)
        self._num_rows += len(group)
        if self._num_rows == self._rows_per_file:
            self._stack.close()
            self._add, self._num_rows = None, 0
