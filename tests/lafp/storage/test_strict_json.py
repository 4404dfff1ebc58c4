"""Numbers that JSON does not have never reach a file."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from lafp.storage.strict_json import dump_lines, dumps

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
