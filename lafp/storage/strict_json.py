"""The one writer of JSON: strict JSON, which every reader takes.

Python's own writer puts ``NaN`` and ``Infinity`` into files, which JSON does not have: browsers,
jq, DuckDB and most other languages refuse the whole file.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


def dumps(value: Any, indent: int | None = None, sort_keys: bool = False) -> str:
    """``json.dumps`` without numbers that JSON does not have.

    A number that is not finite is undefined. In a mapping its key is left out, in a list null
    stands for it, so that the other elements keep their places.
    """
    try:
        return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError:  # looked for only where there is one: records of clips hold many numbers
        return json.dumps(_finite(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def dump_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """JSON lines: one record per line, each line ended."""
    return "".join(dumps(record) + "\n" for record in records)


def defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that have a value: what is NaN or infinite is undefined, and left out."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items() if not _is_undefined(item)}
    if isinstance(value, list | tuple):
        return [None if _is_undefined(item) else _finite(item) for item in value]
    return None if _is_undefined(value) else value


def _is_undefined(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
