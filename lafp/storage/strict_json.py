"""Writes strict JSON and reads it back as typed records. No other module writes JSON files.

Python's ``json`` writes ``NaN`` and ``Infinity``, which are not JSON: browsers, jq, DuckDB and most
other languages then refuse the whole file.

A record is a dataclass of plain values, tuples, lists, mappings and other records. Its annotations
decide what is read: a list in the text becomes a tuple where the annotation says so. Text is parsed
by ``json`` and only checked by msgspec, because names of files may hold lone surrogates, which
msgspec's own parser refuses.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

import msgspec

from lafp import storage
from lafp.storage.msgspec_types import first_alone

T = TypeVar("T")


class DamagedError(ValueError):
    """Says that a stored record or table is not what lafp writes. The message names the file."""


def dumps(value: object, indent: int | None = None, sort_keys: bool = False) -> str:
    """Works like ``json.dumps``, but takes records and leaves out numbers that are not finite.

    In a mapping, such a number's key is left out. In a list, null replaces the number, so that the
    other elements keep their positions.
    """
    options: Any = {"indent": indent, "sort_keys": sort_keys, "allow_nan": False, "default": plain}
    try:
        return json.dumps(value, **options)
    except ValueError:  # searched for only now, because records of clips hold many numbers
        return json.dumps(_finite(value), **options)


def loads(kind: type[T], text: str | bytes, where: str = "The text") -> T:
    """Reads a record, a list of records, or any other type that msgspec knows.

    Args:
        kind: The type, e.g. ``ShardEntry`` or ``dict[str, Any]``.
        text: JSON.
        where: Begins the message of the error.

    Raises:
        DamagedError: The text is not JSON, or it lacks a field or holds a value of another type.
    """
    try:
        return from_plain(kind, json.loads(text))
    except (ValueError, RecursionError) as error:  # the second if it is nested very deeply
        raise DamagedError(f"{where} is damaged: {error}") from None


def read(kind: type[T], uri: str) -> T:
    """Reads a JSON file: see ``loads``.

    Raises:
        DamagedError: The file is damaged; the message names it.
        OSError: The file is missing or cannot be read.
    """
    return loads(kind, storage.read_bytes(uri), uri)


def write(uri: str, value: object, indent: int | None = None) -> None:
    """Writes a JSON file, whole or not at all: see ``dumps``."""
    storage.write_text(uri, dumps(value, indent))


def plain(value: object) -> Any:
    """Turns records at any depth into dicts."""
    return msgspec.to_builtins(value, enc_hook=_builtin)


def from_plain(kind: type[T], value: object) -> T:
    """Turns dicts, lists and plain values into ``kind``, which is the inverse of ``plain``.

    Raises:
        ValueError: A field is missing, or a value has another type.
    """
    with first_alone(kind):
        return msgspec.convert(value, kind, str_keys=True)


def dump_lines(records: Iterable[object]) -> str:
    """Writes JSON lines: one record per line, each line ended by a newline."""
    return "".join(dumps(record) + "\n" for record in records)


def defined(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics without those that are undefined (NaN or infinite)."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _builtin(value: object) -> Any:
    for kind in (str, float, int):  # numpy's float64 and str_ are subclasses
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"JSON cannot hold {value!r}, of type {type(value).__name__}.")


def _finite(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items() if not _is_undefined(item)}
    if is_dataclass(value):
        return _finite(plain(value))
    if isinstance(value, list | tuple):
        return [None if _is_undefined(item) else _finite(item) for item in value]
    return None if _is_undefined(value) else value


def _is_undefined(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
