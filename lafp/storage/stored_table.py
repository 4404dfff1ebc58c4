"""Reads local parquet files for a viewer: columns batch by batch, and single rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lafp.storage.tables import whole

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS_PER_SCAN = 65_536


class StoredTable:
    """Reads columns and single rows of local parquet files, however long they are.

    A few batches or row groups are in memory at a time. Several threads may read.

    Args:
        files: URI -> local copy, which must stay as it is. Their rows are one table.

    Raises:
        DamagedError: A file is no table.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = [(uri, path, _footer(uri, path)) for uri, path in files.items()]
        footers = [footer for *_, footer in self._files]
        # Each row group by the number of its file and its number in there.
        self._groups = [
            (file, group)
            for file, footer in enumerate(footers)
            for group in range(footer.num_row_groups)
        ]
        sizes = [footers[file].row_group(group).num_rows for file, group in self._groups]
        self._ends = np.cumsum([0, *sizes])

    @property
    def num_rows(self) -> int:
        """Returns the number of rows."""
        return int(self._ends[-1])

    def batches(self, columns: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        """Yields some columns, batch by batch, in the order of the rows.

        Raises:
            DamagedError: A file is broken.
        """
        for file in range(len(self._files)):
            with self._open(file) as table:
                for batch in table.iter_batches(_ROWS_PER_SCAN, columns=list(columns)):
                    batch.validate(full=True)
                    yield batch

    def take(
        self, rows: Sequence[int], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Reads the rows with these numbers, in the order given; None reads all columns.

        Raises:
            DamagedError: A file is broken.
        """
        found: dict[int, dict[str, Any]] = {}
        wanted = np.asarray(rows, np.int64)
        groups = np.searchsorted(self._ends, wanted, side="right") - 1
        for group in np.unique(groups):
            numbers = wanted[groups == group]
            file, number = self._groups[group]
            with self._open(file) as table:
                rows_of_group = table.read_row_group(number, columns=columns and list(columns))
                records = rows_of_group.take(numbers - self._ends[group]).to_pylist()
            found.update(zip(numbers.tolist(), records, strict=True))
        return [found[row] for row in wanted.tolist()]

    @contextmanager
    def _open(self, file: int) -> "Iterator[pq.ParquetFile]":
        """Opens a file anew, because threads must not share one. Errors in the block name it."""
        import pyarrow.parquet as pq

        uri, path, footer = self._files[file]
        # Without pre_buffer, which would read the columns of all row groups ahead.
        with whole(uri), pq.ParquetFile(path, metadata=footer, pre_buffer=False) as table:
            yield table


def _footer(uri: str, path: Path) -> "pq.FileMetaData":
    import pyarrow.parquet as pq

    with whole(uri):
        return pq.read_metadata(path)
