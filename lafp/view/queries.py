"""Answers searches over a table: which rows match, in which order, and what a column holds.

Columns are read batch by batch. In memory stay four bytes per matching row, for the last few
searches, so that the next page of a listing needs no second search.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lafp.storage.stored_table import StoredTable

if TYPE_CHECKING:
    import pyarrow as pa

LENGTH = "length"
"""Stands for ``end_s - start_s``, which no table stores."""
RANDOM = "random"
_NUM_KEPT = 4
_NUM_BINS = 28
_RANGE_SHARE = 0.995


@dataclass(frozen=True, kw_only=True)
class Query:
    """Says which rows of a table are wanted, and in which order."""

    words: tuple[str, ...] = ()
    """Each must be part of one of the text columns; upper and lower case are alike."""
    equal: tuple[tuple[str, str], ...] = ()
    """Column and the text of its value."""
    between: tuple[tuple[str, float, float], ...] = ()
    """Column (or ``LENGTH``), lowest and highest value."""
    sort: str = ""
    """Column of numbers, ``LENGTH`` or ``RANDOM``; empty: as stored."""
    is_descending: bool = False


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names the columns of a table that one may ask for."""

    text: tuple[str, ...]
    """Columns that are searched."""
    equal: tuple[str, ...]
    numbers: tuple[str, ...]
    """Columns for ranges."""
    sort: tuple[str, ...]

    def parse(self, asked: Mapping[str, str]) -> Query:
        """Reads a query from the parameters of a URL. Parameters with other names are left.

        Raises:
            ValueError: A number is none, or no such order is known.
        """
        sort = asked.get("sort", "")
        if sort not in ("", RANDOM, *self.sort):
            raise ValueError(f"sort is {sort!r}, expected one of {', '.join(self.sort)}.")
        between = [
            (name, _number(asked, f"min_{name}", -np.inf), _number(asked, f"max_{name}", np.inf))
            for name in self.numbers
            if asked.get(f"min_{name}") or asked.get(f"max_{name}")
        ]
        return Query(
            words=tuple(asked.get("search", "").split()),
            equal=tuple((name, asked[name]) for name in self.equal if asked.get(name)),
            between=tuple(between),
            sort=sort,
            is_descending=asked.get("order") == "desc",
        )


def _number(asked: Mapping[str, str], name: str, default: float) -> float:
    text = asked.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ValueError(f"{name} is {text!r}, expected a number.")
    return value


class Searched:
    """Searches one table."""

    def __init__(self, table: StoredTable, text: Sequence[str]) -> None:
        self.table = table
        self._text = tuple(text)
        self.rows = lru_cache(_NUM_KEPT)(self._search)
        self.totals = lru_cache(None)(self._totals)
        self.histogram = lru_cache(None)(self._histogram)

    def page(
        self, query: Query, offset: int, limit: int, columns: Sequence[str] | None = None
    ) -> tuple[int, list[dict[str, Any]]]:
        """Returns the number of matching rows, and a page of them, each with its ``row``."""
        rows = self.rows(query)
        page = rows[max(0, offset) :][: max(0, limit)].tolist()
        records = self.table.take(page, columns)
        return len(rows), [{"row": row} | record for row, record in zip(page, records, strict=True)]

    def find(self, column: str, values: Sequence[str]) -> list[int]:
        """Returns the numbers of the rows that hold one of the values in a column of text."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted, found, first = pa.array(values, pa.string()), [], 0
        for batch in self.table.batches([column]):
            is_in = pc.is_in(batch[column], wanted).to_numpy(zero_copy_only=False)
            found += (np.flatnonzero(is_in) + first).tolist()
            first += batch.num_rows
        return found

    def _search(self, query: Query) -> np.ndarray:
        """Returns the numbers of the matching rows in the order of the query, uint32."""
        if query.sort in ("", RANDOM) and not (query.words or query.equal or query.between):
            rows = np.arange(self.table.num_rows, dtype=np.uint32)
        else:
            rows = self._scan(query)
        if query.sort == RANDOM:
            return np.random.default_rng(0).permutation(rows)
        return rows[::-1] if query.is_descending and not query.sort else rows

    def _scan(self, query: Query) -> np.ndarray:
        key = query.sort if query.sort != RANDOM else ""
        names = [name for name, _ in query.equal] + [name for name, _, _ in query.between]
        columns = {*_stored([*names, *filter(None, [key])]), *(self._text if query.words else ())}
        found, keys, first = [], [], 0
        for batch in self.table.batches(sorted(columns)):
            matches = np.flatnonzero(_matches(batch, query, self._text))
            found.append((matches + first).astype(np.uint32))
            if key:
                keys.append(_values(batch, key)[matches])
            first += batch.num_rows
        rows = np.concatenate(found) if found else np.zeros(0, np.uint32)
        if not key or not found:
            return rows
        values = np.concatenate(keys)
        return rows[np.argsort(-values if query.is_descending else values, kind="stable")]

    def _totals(self, column: str) -> dict[str, dict[str, float]]:
        """Returns value -> number of its rows, and their seconds; the most frequent first."""
        import pyarrow.compute as pc

        spans: dict[str, int] = defaultdict(int)
        seconds: dict[str, float] = defaultdict(float)
        for batch in self.table.batches([column, *_stored([LENGTH])]):
            coded = pc.dictionary_encode(pc.cast(batch[column], "string"))
            codes, names = coded.indices.to_numpy(), coded.dictionary.to_pylist()
            counts = np.bincount(codes, minlength=len(names))
            lengths = np.bincount(codes, _values(batch, LENGTH), minlength=len(names))
            for name, count, length in zip(names, counts.tolist(), lengths.tolist(), strict=True):
                spans[name] += count
                seconds[name] += length
        ordered = sorted(spans, key=lambda name: (-spans[name], name))
        return {name: {"spans": spans[name], "seconds": seconds[name]} for name in ordered}

    def _histogram(self, column: str) -> dict[str, object]:
        """Counts the values of a column in bins of one width; the last bin takes all above."""
        batches = self.table.batches(_stored([column]))
        values = [_values(batch, column).astype(np.float32) for batch in batches]
        every = np.concatenate(values) if values else np.zeros(0, np.float32)
        if not every.size:
            return {"low": 0.0, "high": 0.0, "counts": []}
        # One clip of ten minutes must not squeeze all others into the first bin.
        low, high = float(every.min()), float(np.quantile(every, _RANGE_SHARE))
        if high <= low:
            return {"low": low, "high": low, "counts": [int(every.size)]}
        counts, _ = np.histogram(every.clip(low, high), _NUM_BINS, (low, high))
        return {"low": low, "high": high, "counts": counts.tolist()}


def _stored(names: Sequence[str]) -> list[str]:
    return [n for name in names for n in (("start_s", "end_s") if name == LENGTH else (name,))]


def _values(batch: "pa.RecordBatch", name: str) -> np.ndarray:
    if name == LENGTH:
        return _values(batch, "end_s") - _values(batch, "start_s")
    return batch[name].to_numpy(zero_copy_only=False)


def _matches(batch: "pa.RecordBatch", query: Query, text: Sequence[str]) -> np.ndarray:
    import pyarrow.compute as pc

    is_match = np.ones(batch.num_rows, bool)
    for name, value in query.equal:
        is_equal = pc.equal(pc.cast(batch[name], "string"), value)
        is_match &= pc.fill_null(is_equal, False).to_numpy(zero_copy_only=False)
    for name, low, high in query.between:
        values = _values(batch, name)
        is_match &= (values >= low) & (values <= high)
    for word in query.words:
        of_word = np.zeros(batch.num_rows, bool)
        for name in text:
            hits = pc.match_substring(batch[name], word, ignore_case=True)
            of_word |= hits.to_numpy(zero_copy_only=False)
        is_match &= of_word
    return is_match
