"""Rows <-> parquet tables by URI: the one writer and the one reader of our own tables.

Tables of other people's data sets are read by the modules that know their layout
(``data_pipelines/preprocess/sources``). pyarrow is imported by the functions, because an agent must
not need it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from lafp import storage
from lafp.storage.columns import is_equal
from lafp.storage.strict_json import DamagedError, from_plain, plain
from lafp.storage.temporary import TemporaryFolder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

T = TypeVar("T")
Columns = Sequence[str] | Mapping[str, type]
"""Names of columns. A mapping also names the type of their values: ``str``, ``int``, ``float`` or
``bool``."""
ROWS_PER_GROUP = 5_000
_ROWS_PER_BATCH = 8_192


def schema_of(row: type, more: Mapping[str, type] | None = None) -> "pa.Schema":
    """Makes a schema of a dataclass's fields and ``more``, from their types in Python.

    A field of a type that no column takes, such as a list of records, is left out.
    """
    import pyarrow as pa

    types = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        bool: pa.bool_(),
        list[int]: pa.list_(pa.int64()),
        tuple[int, ...]: pa.list_(pa.uint16()),  # motion of frame pairs, in 1/10,000
    }
    hints = {f.name: _required(f.type) for f in fields(row)} | dict(more or {})
    return pa.schema([(name, types[hint]) for name, hint in hints.items() if hint in types])


def _required(hint: Any) -> Any:
    """Returns ``T`` for ``T | None``, and ``str`` for a choice of words."""
    if get_origin(hint) is Literal:
        return str
    return get_args(hint)[0] if NoneType in get_args(hint) else hint


class TableWriter:
    """Writes a local parquet file row by row, holding one row group at a time."""

    def __init__(self, path: Path, schema: "pa.Schema") -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema)
        self._rows: list[Mapping[str, object]] = []

    def add(self, row: Mapping[str, object]) -> None:
        """Appends a row. Keys that are no columns are left out."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what is left. A table without rows still has its columns."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
            self._rows = []


@contextmanager
def open_table(
    uri: str, row: type, more: Mapping[str, type] | None = None
) -> Iterator[TableWriter]:
    """Opens a table with the columns of ``schema_of(row, more)``. It appears after the block."""
    with _replacement(uri) as path:
        writer = TableWriter(path, schema_of(row, more))
        yield writer
        writer.close()


@contextmanager
def open_tables(uri: str, schema: "pa.Schema") -> "Iterator[Callable[[pa.Table], None]]":
    """Opens a table that is written table by table. It appears after the block.

    Yields:
        Appends the schema's columns of a table.
    """
    import pyarrow.parquet as pq

    with _replacement(uri) as path, pq.ParquetWriter(path, schema) as writer:
        yield lambda table: writer.write_table(table.select(schema.names), ROWS_PER_GROUP)


def write_tables(uri: str, schema: "pa.Schema", tables: "Iterable[pa.Table]") -> None:
    """Writes columns of tables below each other, with one table in memory at a time."""
    with open_tables(uri, schema) as add:
        for table in tables:
            add(table)


def write_rows(uri: str, row: type, rows: Iterable[object]) -> None:
    """Writes a table of dataclass instances, replacing one that is there."""
    with open_table(uri, row) as table:
        for each in rows:
            table.add(plain(each))


def write_table(uri: str, table: "pa.Table") -> None:
    """Writes a table that is in memory, replacing one that is there."""
    import pyarrow.parquet as pq

    with _replacement(uri) as path:
        pq.write_table(table, path, row_group_size=ROWS_PER_GROUP)


def rewrite_table(uri: str, change: "Callable[[pa.RecordBatch], pa.RecordBatch]") -> None:
    """Puts a table through ``change``, one batch in memory at a time, and replaces it."""
    import pyarrow.parquet as pq

    with (
        storage.local_file(uri) as path,
        _replacement(uri) as made,
        pq.ParquetFile(path) as table,
        pq.ParquetWriter(made, table.schema_arrow) as writer,
    ):
        for batch in table.iter_batches(_ROWS_PER_BATCH):
            # An empty row group would be lost when a change is made a second time after it was
            # killed, and the file would be another.
            if (changed := change(batch)).num_rows:
                writer.write_batch(changed)


def read_table(
    uri: str, columns: Columns | None = None, filters: Sequence[Any] | None = None
) -> "pa.Table":
    """Reads a table, or some columns of it, into memory.

    Args:
        uri: The table.
        columns: Columns to read, if need be with the type of their values; None is all.
        filters: As pyarrow takes them.

    Raises:
        DamagedError: The file is no table, lacks one of the columns, or holds other values in it.
    """
    import pyarrow.parquet as pq

    with storage.local_file(uri) as path, whole(uri):
        if filters is None:  # spares the imports of pyarrow.dataset and pandas
            with pq.ParquetFile(path) as table:
                names = _existing(columns, table, uri)
                read = table.read(names)
                read = read if names is None else read.select(names)
        else:
            names = None if columns is None else list(columns)
            read = pq.read_table(path, columns=names, filters=filters)
        _check(columns, read, uri)
        return read


def _check(columns: Columns | None, table: "pa.Table | pa.RecordBatch", uri: str) -> None:
    """Raises DamagedError if a column has another type, and ValueError if its bytes are broken."""
    import pyarrow as pa

    # A file may hold any bytes as strings, and pyarrow finds that out only when Python sees them.
    table.validate(full=True)
    if not isinstance(columns, Mapping):
        return
    is_kind = {
        str: pa.types.is_string,
        int: pa.types.is_integer,
        float: pa.types.is_floating,
        bool: pa.types.is_boolean,
    }
    for name, kind in columns.items():
        found = table.schema.field(name).type
        if not is_kind[kind](found):
            raise DamagedError(f"{uri} has {found} in column {name}, expected {kind.__name__}")


def read_rows(
    uri: str, columns: Columns | None = None, filters: Sequence[Any] | None = None
) -> list[dict[str, Any]]:
    """Reads the rows of a table into memory. The arguments are those of ``read_table``."""
    table = read_table(uri, columns, filters)
    with whole(uri):  # such as times that Python's datetime does not hold
        return table.to_pylist()


def read_records(kind: type[T], uri: str) -> list[T]:
    """Reads the rows of a table as dataclass instances: the inverse of ``write_rows``."""
    with whole(uri):
        return from_plain(list[kind], read_rows(uri))  # type: ignore[valid-type]


def iter_rows(
    uri: str,
    columns: Columns | None = None,
    wanted: "pc.Expression | None" = None,
    batch_rows: int = _ROWS_PER_BATCH,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a table in order, with a few batches in memory at a time.

    Args:
        uri: The table.
        columns: Columns that the rows hold; None is all.
        wanted: Expression, over any columns, that is true for the rows to read; None reads all.
        batch_rows: Rows that are read together.
    """
    if wanted is None:  # spares the imports of pyarrow.dataset and pandas
        for batch in iter_batches(uri, columns, batch_rows=batch_rows):
            with whole(uri):
                rows = batch.to_pylist()
            yield from rows
        return
    with storage.local_file(uri) as path, whole(uri):
        import pyarrow.dataset as ds

        names = None if columns is None else list(columns)
        # Without a limit the scanner would read far ahead of whoever needs the first rows only.
        scanner = ds.dataset(path, format="parquet").scanner(
            names, filter=wanted, batch_size=batch_rows, batch_readahead=1
        )
        for batch in scanner.to_batches():
            yield from batch.to_pylist()


def iter_batches(
    uri: str,
    columns: Columns | None = None,
    equal: Mapping[str, str | bool] | None = None,
    batch_rows: int = _ROWS_PER_BATCH,
) -> "Iterator[pa.RecordBatch]":
    """Yields some columns of some rows of a table in order, a batch at a time.

    Only the named columns are read. Row groups are skipped if their statistics show that no row of
    them is wanted.

    Args:
        uri: The table.
        columns: See ``read_table``.
        equal: Column -> the value that it must have in the rows to read.
        batch_rows: Rows that are read together.

    Raises:
        DamagedError: See ``read_table``.
    """
    import pyarrow.parquet as pq

    equal = equal or {}
    with (
        storage.local_file(uri) as path,
        whole(uri),
        pq.ParquetFile(path, pre_buffer=False) as table,
    ):
        names = _existing(columns, table, uri)
        read = names and [*names, *(_existing(equal.keys() - set(names), table, uri) or ())]
        groups = [
            number
            for number in range(table.num_row_groups)
            if _may_hold(table.metadata.row_group(number), equal)
        ]
        for batch in table.iter_batches(batch_rows, row_groups=groups, columns=read):
            _check(columns, batch, uri)
            for name, value in equal.items():
                batch = batch.filter(is_equal(batch[name], value))
            if batch.num_rows:
                yield batch if names is None else batch.select(names)


def _may_hold(group: Any, equal: Mapping[str, str | bool]) -> bool:
    """Says whether a row group may hold a row with these values, by its statistics."""
    if not equal:
        return True
    for number in range(group.num_columns):
        column = group.column(number)
        value, found = equal.get(column.path_in_schema), column.statistics
        is_known = value is not None and found is not None and found.has_min_max
        if is_known and not found.min <= value <= found.max:
            return False
    return True


def _existing(
    columns: Collection[str] | None, table: "pq.ParquetFile", uri: str
) -> list[str] | None:
    """Returns the columns as a list. Raises DamagedError if the table lacks one of them."""
    if columns is None:
        return None
    if missing := set(columns) - set(table.schema_arrow.names):
        raise DamagedError(f"{uri} has no column {', '.join(sorted(missing))}")
    return list(columns)


def num_rows(uri: str) -> int:
    """Rows of a table, from its footer."""
    import pyarrow.parquet as pq

    with storage.open_file(uri) as file, whole(uri):
        return int(pq.read_metadata(file).num_rows)


@contextmanager
def whole(uri: str) -> Iterator[None]:
    """Turns whatever pyarrow raises for a broken file into ``DamagedError``."""
    try:
        yield
    except (DamagedError, MemoryError):
        raise
    except (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise DamagedError(f"{uri} is damaged: {error}") from error
    except OSError as error:
        if error.errno is not None or isinstance(error, storage.StorageError):
            raise  # of storage, not of the bytes
        raise DamagedError(f"{uri} is damaged: {error}") from error


@contextmanager
def _replacement(uri: str) -> Iterator[Path]:
    """Yields a local path to write to. The file becomes ``uri`` after the block."""
    with TemporaryFolder() as folder:
        path = Path(folder) / "table.parquet"
        yield path
        storage.upload(path, uri)
