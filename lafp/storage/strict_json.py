"""Writes strict JSON. No other module writes JSON files.

Python's ``json`` writes ``NaN`` and ``Infinity``, which are not JSON: browsers, jq, DuckDB and most
other languages then refuse the whole file.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


def dumps(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """Works like ``json.dumps``, but leaves out numbers that are not finite.

    In a mapping, such a number's key is left out. In a list, null replaces the number, so that the
    other elements keep their positions.
    """
    try:
        return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError:  # searched for only now, because records of clips hold many numbers
        return json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def dump_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Writes JSON lines: one record per line, each line ended by a newline."""
    return "".join(dumps(record) + "\n" for record in records)


def defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics without those that are undefined (NaN or infinite)."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items() if not _is_undefined(item)}
    if isinstance(value, list | tuple):
        return [None if _is_undefined(item) else _finite(item) for item in value]
    return None if _is_undefined(value) else value


def _is_undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
