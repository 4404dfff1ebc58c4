"""Numbers that JSON does not have never reach a file, and records are read as typed."""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafp.storage.strict_json import dump_lines, dumps, loads, read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is no JSON")


def strict(text: str):
    return json.loads(text, parse_constant=refuse)


def is_undefined(value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def expected(value):
    if isinstance(value, dict):
        return {k: expected(v) for k, v in value.items() if not is_undefined(v)}
    if isinstance(value, list):
        return [expected(v) for v in value]
    return None if is_undefined(value) else value


@given(VALUES)
def test_whatever_is_written_is_strict_json_that_keeps_all_that_is_defined(value):
    assert strict(dumps(value)) == expected(value)
    assert strict(dumps(value, indent=1)) == expected(value)


def test_lines_are_records_without_what_is_undefined():
    text = dump_lines([{"step": 1, "loss": math.nan}, {"step": 2, "loss": -math.inf, "r2": 0.5}])
    assert [strict(line) for line in text.splitlines()] == [{"step": 1}, {"step": 2, "r2": 0.5}]


@dataclass(frozen=True, kw_only=True)
class Inner:
    name: str
    size: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Record:
    number: int
    spans: tuple[tuple[float, float], ...] = ()
    inner: tuple[Inner, ...] = ()
    more: Inner | None = None
    details: dict[str, Any] = field(default_factory=dict)


def test_a_record_is_read_as_it_was_written():
    inner = Inner(name="a/\udcff.mp4", size=np.float64(0.5))  # a name that is not UTF-8
    record = Record(number=3, spans=((0.0, 1.5),), inner=(inner, inner), details={"x": [1, None]})
    assert loads(Record, dumps(record)) == record
    assert loads(list[Record], dumps([record])) == [record]
    assert loads(dict[int, Record], dumps({7: record})) == {7: record}
    assert strict(dumps(Inner(name="", size=math.nan))) == {"name": ""}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"number": 1', "delimiter"),
        ("[1]", "Expected `object`, got `array`"),
        ("{}", "missing required field `number`"),
        ('{"number": "1"}', "Expected `int`, got `str` - at `$.number`"),
        ('{"number": 1, "inner": [{"name": null}]}', "at `$.inner[0].name`"),
        ("\x00", "Expecting value"),
    ],
)
def test_a_damaged_record_is_an_error_that_names_file_and_field(tmp_path, text, why):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged: ")) as error:
        read(Record, str(path))
    assert why in str(error.value)
