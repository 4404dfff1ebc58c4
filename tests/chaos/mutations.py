"""Seeded changes of bytes, JSON and tables: equal seeds give equal results."""

import io
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EDGES = (0, 1, 2, 3, 7, 15, 16, 127, 128, 255, 256, 511, 512, 1023, 1024, 4095, 4096, 32767, 32768)
EDGES += (65535, 65536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53)
EDGES += (2**62, 2**63 - 1, 2**63, 2**64 - 1)
DEEP = 100_000
ODD_TEXTS = ("", "\0", " ", "\ud800", "é", "../../x", "/etc/passwd", "x" * 70_000, "NaN", "1e999")
ODD_TEXTS += ("9" * 5_000, "\u202e", "http://[::1", "s3://", "file://%00", "{0:0999999999d}", "٣")
ODD_NUMBERS = (0, -1, 1, 2, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400)
ODD_NUMBERS += (1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf"), 0.5, -0.0)


def mutated_bytes(rng: Random, data: bytes, others: Sequence[bytes] = (), most: int = 4) -> bytes:
    """Makes one to ``most`` changes."""
    for _ in range(rng.randint(1, most)):
        data = rng.choice(_BYTE_CHANGES)(rng, data, rng.choice(others) if others else data)
    return data


def _place(rng: Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1) if data else 0


def _flip(rng: Random, data: bytes, _: bytes) -> bytes:
    if not data:
        return data
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def _overwrite(rng: Random, data: bytes, _: bytes) -> bytes:
    at, size = _place(rng, data), rng.choice((1, 1, 2, 4, 16, 64))
    return data[:at] + rng.randbytes(size) + data[at + size :]


def _insert(rng: Random, data: bytes, _: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 1, 2, 4, 16))) + data[at:]


def _delete(rng: Random, data: bytes, _: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 1, 2, 4, 16, 512)) :]


def _repeat(rng: Random, data: bytes, _: bytes) -> bytes:
    at, size = _place(rng, data), rng.choice((1, 4, 16, 512))
    return data[:at] + data[at : at + size] * rng.choice((2, 3, 20)) + data[at + size :]


def _truncate(rng: Random, data: bytes, _: bytes) -> bytes:
    return data[: _place(rng, data)]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _edge(rng: Random, data: bytes, _: bytes) -> bytes:
    """Writes a number at the edge of a type, as a field of lengths would hold it."""
    at, size = _place(rng, data), rng.choice((1, 2, 4, 8))
    number = rng.choice(EDGES) % 256**size
    return data[:at] + number.to_bytes(size, rng.choice(("big", "little"))) + data[at + size :]


def _run(rng: Random, data: bytes, _: bytes) -> bytes:
    at, size = _place(rng, data), rng.choice((4, 16, 64))
    return data[:at] + rng.choice((b"\0", b"\xff", b"9", b"[", b"(")) * size + data[at + size :]


_BYTE_CHANGES: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    _flip,
    _flip,
    _overwrite,
    _insert,
    _delete,
    _repeat,
    _truncate,
    _splice,
    _edge,
    _edge,
    _run,
)


def odd_value(rng: Random) -> Any:
    """Returns a value of JSON that no field expects."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"": None}))
    if kind == 1:
        return rng.choice(ODD_TEXTS)
    if kind == 2:
        value: Any = rng.choice(ODD_NUMBERS)
        for _ in range(rng.choice((1, 3, 200))):
            value = [value]
        return value
    return rng.choice(ODD_NUMBERS)


def mutated_tree(rng: Random, tree: Any, most: int = 2) -> Any:
    """Changes the nodes of a tree of dicts and lists."""
    tree = {"": deepcopy(tree)}
    for _ in range(rng.randint(1, most)):
        holders = list(_holders(tree))
        holder = rng.choice(holders[1:] or holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        change = rng.randrange(6)
        if change == 0 and holder is not tree:
            del holder[key]
        elif change == 1 and isinstance(holder, dict) and holder is not tree:
            holder[rng.choice(ODD_TEXTS)] = holder.pop(key)
        elif change == 2:
            other = rng.choice(holders)
            name = rng.choice(list(other) if isinstance(other, dict) else range(len(other)))
            holder[key] = deepcopy(other[name])
        else:
            holder[key] = odd_value(rng)
    return tree[""]


def _holders(tree: Any) -> "list[Any]":
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list) and node:
            found.append(node)
            waiting += node.values() if isinstance(node, dict) else node
    return found


def mutated_json(rng: Random, text: bytes) -> bytes:
    """Changes JSON, mostly so that it stays JSON."""
    change = rng.randrange(10)
    if change == 0:
        return mutated_bytes(rng, text)
    if change == 1:  # nested more deeply than Python's stack goes
        left, right = rng.choice((("[", "]"), ('{"a":', "}")))
        deep = left * (size := rng.choice((900, 990, DEEP))) + "0" + right * size
        return (
            text.replace(b":", b":" + deep.encode() + b',"":', 1)
            if rng.random() < 0.5
            else (deep.encode())
        )
    if change == 2:  # a key twice, the second time with another value
        name, colon, rest = text.partition(b":")
        return name + colon + json.dumps(odd_value(rng)).encode() + b", " + name[1:] + colon + rest
    made = json.dumps(mutated_tree(rng, json.loads(text))).encode()
    return made if change != 3 else made.replace(b'"', b'"\xff\xfe', rng.randrange(4))


def odd_column(rng: Random, num_rows: int) -> pa.Array:
    """Returns a column of a type that no reader expects."""
    kinds: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.nulls(num_rows),
        lambda: pa.array([rng.choice(("", "a", None, "\u202e")) for _ in range(num_rows)]),
        lambda: pa.array([rng.choice((2**63 - 1, -(2**63), 0, None)) for _ in range(num_rows)]),
        lambda: pa.array([float("nan")] * num_rows),
        lambda: pa.array([rng.choice((1e308, -1e308, 5e-324)) for _ in range(num_rows)]),
        lambda: pa.array([[1.0] * rng.randrange(4) for _ in range(num_rows)]),
        lambda: pa.array([[[1], [2, 3]]] * num_rows),
        lambda: pa.array([{"bytes": b"x", "path": None}] * num_rows),
        lambda: pa.array([b"\xff\xfe\0"] * num_rows, rng.choice((pa.binary(), pa.large_binary()))),
        lambda: pa.array([2**64 - 1] * num_rows, pa.uint64()),
        lambda: pa.array([Decimal("1e30")] * num_rows, pa.decimal128(38)),
        lambda: pa.array([datetime(9999, 12, 31, tzinfo=UTC)] * num_rows),
        lambda: pa.array([2**50] * num_rows, pa.timestamp("s")),
        lambda: pa.array([2**60] * num_rows, pa.timestamp("us", "No/Such")),
        lambda: pa.array([2**31 - 1] * num_rows, pa.date32()),
        lambda: pa.array([2**62] * num_rows, pa.duration("s")),
        lambda: pa.array(["a"] * num_rows).dictionary_encode(),
        lambda: pa.array([True] * num_rows),
        lambda: pa.array([[("a", 1)]] * num_rows, pa.map_(pa.string(), pa.int64())),
        lambda: pa.array(np.zeros(num_rows, np.float16)),
    )
    return rng.choice(kinds)()


def mutated_parquet(rng: Random, data: bytes) -> bytes:
    """Changes columns or rows of a table, or the bytes of the file."""
    if rng.random() < 0.35:
        return mutated_bytes(rng, data)
    table = pq.read_table(io.BytesIO(data))
    for _ in range(rng.randint(1, 2)):
        change, place = rng.randrange(6), rng.randrange(max(1, table.num_columns))
        if not table.num_columns:
            break
        if change == 0:
            table = table.remove_column(place)
        elif change == 1:
            table = table.slice(rng.randrange(len(table) + 1), rng.randrange(len(table) + 1))
        elif change == 2:
            table = pa.concat_tables([table, table])
        else:
            name = table.column_names[place]
            table = table.set_column(place, name, odd_column(rng, len(table)))
    made = io.BytesIO()
    pq.write_table(table, made)
    return made.getvalue()


def mutated(rng: Random, name: str, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Changes a file as befits its name, or its bytes if it was broken before."""
    try:
        return _mutated(rng, name, data, others)
    except (ValueError, RecursionError, OSError, pa.ArrowException):
        return mutated_bytes(rng, data)


def _mutated(rng: Random, name: str, data: bytes, others: Sequence[bytes]) -> bytes:
    if name.endswith(".json"):
        return mutated_json(rng, data)
    if name.endswith(".jsonl"):
        lines = data.splitlines()
        place = rng.randrange(len(lines))
        lines[place] = mutated_json(rng, lines[place])
        return b"\n".join(lines) + b"\n" * rng.randrange(2)
    if name.endswith(".parquet"):
        return mutated_parquet(rng, data)
    return mutated_bytes(rng, data, others)
