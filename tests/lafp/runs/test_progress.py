"""Rates, shares and times left, as people read them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafp.runs import progress as module
from lafp.runs.progress import Progress
from lafp.runs.wording import byte_size, counted, number, speed


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_work_that_was_found_is_part_of_the_share_but_not_of_the_rate(clock, capsys):
    with Progress("lam", 1000, "steps") as progress:
        progress.found(900)
        clock[0] = 20.0
        progress.update(920)
    line = capsys.readouterr().err
    assert "[lam] 920/1,000 steps, 1 step/s, 1 min 20 s left" in line


def test_found_work_may_come_to_light_later_on(clock, capsys):
    with Progress("x", 100, "videos") as progress:
        clock[0] = 20.0
        progress.update(10)
        progress.found(80)
        clock[0] = 40.0
        progress.update(95)
    assert "95/100 videos, 22.5 videos/min, 13 s left" in capsys.readouterr().err


def test_nothing_is_promised_before_there_is_something_to_judge_by(clock, capsys):
    with Progress("x", 100, "clips") as progress:
        clock[0] = 0.001
        progress.show("", is_last=True)
        assert progress.time_left(50, 100) == ""
        clock[0] = 60.0
        assert progress.time_left(0, 100) == ""
        assert progress.time_left(50, 100) == ", 1 min 0 s left"
        assert progress.time_left(100, 100) == ""


@given(st.floats(1e-9, 1e13))
def test_numbers_have_no_exponents_and_are_right_to_three_digits(value):
    text = number(value)
    assert re.fullmatch(r"[\d,]+(\.\d+)?", text)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.006)


@given(st.floats(1e-3, 1e6))
def test_a_speed_is_at_least_one_per_its_period(per_s):
    value, _, unit = speed(per_s, "videos").replace(",", "").partition(" ")
    period = unit.rpartition("/")[2]
    seconds = {"s": 1, "min": 60, "h": 3600}[period]
    assert float(value) == pytest.approx(per_s * seconds, rel=0.006)
    assert float(value) >= 0.995


def test_words_for_counts_and_sizes():
    assert counted(1, "clip") == "1 clip"
    assert counted(1230, "clip") == "1,230 clips"
    assert counted(2, "entry", "entries") == "2 entries"
    assert byte_size(19_900_000) == "19.9 MB"
    assert byte_size(1_500) == "1.5 KB"
    assert byte_size(2.5e12) == "2.5 TB"
    assert speed(7280.4, "videos") == "7,280 videos/s"
