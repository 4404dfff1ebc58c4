"""Calls in threads: in order, a few ahead, and ended by an error or a consumer that stops."""

import threading
import time

import pytest

from lafp.storage.map_ahead import map_ahead


def test_results_come_in_the_order_of_the_items():
    def slow_first(number: int) -> int:
        time.sleep(0.03 if number % 4 == 0 else 0)
        return number * number

    assert list(map_ahead(slow_first, range(40), 8)) == [n * n for n in range(40)]


def test_only_a_few_items_are_taken_ahead_and_calls_overlap():
    taken, together = [], threading.Barrier(4)

    def items():
        for number in range(1_000):
            taken.append(number)
            yield number

    def wait_for_the_others(_: int) -> None:
        together.wait(timeout=10)  # fails unless four calls run at a time

    results = map_ahead(wait_for_the_others, items(), 4)
    for _ in range(8):
        next(results)
        assert len(taken) <= 12
    together.abort()  # the last calls wait for others that are not begun any more
    results.close()
    assert len(taken) <= 12


def test_an_error_comes_after_the_results_before_it_and_ends_the_rest():
    called = []

    def fail_at_three(number: int) -> int:
        called.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ahead(fail_at_three, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(called) <= 6


def test_nothing_comes_of_nothing():
    assert list(map_ahead(str, [])) == []
