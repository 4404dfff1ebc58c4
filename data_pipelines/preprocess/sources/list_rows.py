"""Reads the rows of a list and yields the value in its column of URIs, row by row.

A broken row yields None, and the rows after it are read. Only a list without the column, or of
another format, is an error.
"""

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from lafp import storage
from lafp.config import ConfigError

_BATCH_ROWS = 8192
# A longer line is not a row, because a file without line ends must not fill memory.
_MAX_LINE = 2**20
_DELIMITERS = ",;\t|"
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Comment:
    """Stands for a line of the list that is a comment."""


def list_suffix(uri: str) -> str:
    """Returns the suffix of a list that can be read; empty for any other file."""
    name = uri.rpartition("/")[2]
    suffix = f".{name.rpartition('.')[2].lower()}"
    return suffix if suffix in _READERS and "." in name else ""


def read_rows(source: str, column: str) -> Iterator[object]:
    """Yields the values in the column: text, or anything else where a row is broken.

    Args:
        source: URI of the list, local or S3.
        column: Name of the column; unused for ``.txt``.

    Raises:
        ConfigError: The list is missing, has another format, or has no such column.
    """
    if not storage.is_file(source):
        raise ConfigError(f"No such file: {source}. Correct the path of this list of videos.")
    suffix = list_suffix(source)
    with storage.local_file(source) as path:
        try:
            yield from _READERS[suffix](path, column)
        except _NoColumnError as error:
            found = ", ".join(error.args[0])[:200] or "no columns"
            raise ConfigError(
                f"{source} has no column {column!r}. It has: {found}. Name the column of "
                "the videos with uri_column=NAME."
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise ConfigError(
                f"{source} is not a valid {suffix} file: {error}. Write or copy it again."
            ) from None


class _NoColumnError(Exception):
    """Says that the column is missing. Its argument lists the columns that exist."""


def _open(path: Path) -> TextIO:
    """Opens the list as text. Names in it may hold bytes that are not UTF-8, as on disk."""
    with path.open("rb") as file:
        head = file.read(4)
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return path.open(encoding=encoding, errors="replace")
    # "utf-8-sig" drops the mark that Excel puts at the beginning of UTF-8.
    return path.open(encoding="utf-8-sig", errors="surrogateescape")


def _lines(file: TextIO) -> Iterator[str]:
    """Yields lines that are not blank. A line that is too long is cut off, so its row is broken."""
    while line := file.readline(_MAX_LINE):
        rest = line
        while len(rest) == _MAX_LINE and not rest.endswith("\n"):
            rest = file.readline(_MAX_LINE)
        if not line.isspace():
            yield line


def _read_txt(path: Path, _: str) -> Iterator[str | Comment]:
    with _open(path) as file:
        for line in _lines(file):
            row = line.strip()
            if row.startswith("#"):
                yield Comment()
                continue
            is_quoted = len(row) > 2 and row[0] == row[-1] and row[0] in "\"'"
            yield row[1:-1] if is_quoted else row


def _read_csv(path: Path, column: str) -> Iterator[str | None]:
    with _open(path) as file:
        lines = _lines(file)
        delimiter, index = _find_column(next(lines, ""), column)
        for row in _CsvRows(lines, delimiter):
            yield row[index] if row is not None and index < len(row) else None


def _find_column(header: str, column: str) -> tuple[str, int]:
    """Returns the delimiter of the first line, and the index of the column."""
    found: list[list[str]] = []
    for delimiter in _DELIMITERS:
        try:
            fields = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:  # a field of more than 128 KiB
            continue
        names = [name.strip() for name in fields]
        if column in names:
            return delimiter, names.index(column)
        alike = [i for i, name in enumerate(names) if name.casefold() == column.casefold()]
        if len(alike) == 1:
            return delimiter, alike[0]
        found.append(names)
    raise _NoColumnError(max(found, key=len, default=()))


class _CsvRows:
    """Yields rows of CSV; None for a broken row, whose lines after the first are read again.

    A quote that is never closed would otherwise swallow all rows after it.
    """

    def __init__(self, lines: Iterator[str], delimiter: str) -> None:
        self._lines, self._delimiter = lines, delimiter
        self._again: list[str] = []
        """Lines to read again, the next one last."""
        self._taken: list[str] = []
        """Lines of the current row."""

    def __iter__(self) -> Iterator[list[str] | None]:
        while self._again or self._peek():
            self._taken = []
            reader = csv.reader(self._next(), delimiter=self._delimiter, skipinitialspace=True)
            try:
                row = next(reader, None)
                is_broken = row is None or self._is_open()
            except csv.Error:
                is_broken = True
            if is_broken:
                self._again += reversed(self._taken[1:])
            yield None if is_broken else row

    def _peek(self) -> bool:
        line = next(self._lines, None)
        if line is not None:
            self._again.append(line)
        return line is not None

    def _next(self) -> Iterator[str]:
        while self._again or self._peek():
            self._taken.append(self._again.pop())
            yield self._taken[-1]

    def _is_open(self) -> bool:
        """Says whether the list ends inside a quote of this row."""
        if len(self._taken) < 2 or self._again or self._peek():
            return False
        try:
            rows = csv.reader(
                self._taken, delimiter=self._delimiter, skipinitialspace=True, strict=True
            )
            list(rows)
        except csv.Error as error:
            return "unexpected end of data" in str(error)
        return False


def _read_jsonl(path: Path, column: str) -> Iterator[object]:
    with _open(path) as file:
        for number, line in enumerate(_lines(file)):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                yield None
                continue
            found = isinstance(row, dict) and column in row
            # Only the first row shows whether the column exists. Later rows without it are broken
            # rows.
            if not found and not number:
                raise _NoColumnError(row if isinstance(row, dict) else ())
            yield row[column] if found else None


def _read_parquet(path: Path, column: str) -> Iterator[object]:
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise _NoColumnError(file.schema_arrow.names)
        for batch in file.iter_batches(_BATCH_ROWS, columns=[column]):
            values = batch.column(0)
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            # Files hold text that is not UTF-8, and one such row must not end the list.
            if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                values = values.cast(pa.large_binary())
            for value in values:
                try:
                    yield value.as_py()
                except (ArithmeticError, ValueError):  # e.g. a date beyond the year 9999
                    yield None


_READERS: dict[str, Callable[[Path, str], Iterator[object]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
