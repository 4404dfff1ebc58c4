"""Broken inputs for each of our parsers: a few in the gate, thousands in the slow run."""

import pytest

from tests.chaos.fuzz import run_apart, try_inputs
from tests.chaos.targets import TARGETS

NUM_SHORT, NUM_LONG = 20, 2_000


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_refuses_what_is_broken_as_its_callers_expect(name, tmp_path):
    tally = try_inputs(name, TARGETS[name](tmp_path), 1, range(NUM_SHORT))
    assert not tally.faults, dict(tally.first)
    assert tally.num_inputs == NUM_SHORT


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_thousands_of_broken_inputs_kill_hang_and_surprise_no_parser(name):
    tally = run_apart(name, 2, range(NUM_LONG))
    assert not tally.faults, dict(tally.first)
    assert tally.num_inputs == NUM_LONG


def test_equal_seeds_make_equal_inputs(tmp_path):
    from random import Random

    target = TARGETS["tfrecord"](tmp_path)
    assert target.make(Random("a 1")) == target.make(Random("a 1")) != target.make(Random("a 2"))
