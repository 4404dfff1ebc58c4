import time

import pytest

from lafp.eval.latency import NUM_WARMUP_ROUNDS, measure_latency


def test_medians_and_ratios_are_those_of_the_calls():
    calls = {"fast": lambda: time.sleep(0.004), "slow": lambda: time.sleep(0.012)}
    latency = measure_latency(calls, num_rounds=9, baseline="fast")
    assert latency["fast"].median_ms == pytest.approx(4, rel=0.5)
    assert latency["slow"].ratio == pytest.approx(3, rel=0.5)
    assert latency["fast"].ratio == 1.0
    assert latency["slow"].num_rounds == 9


def test_calls_are_interleaved_and_take_turns_at_the_start():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    measure_latency(calls, num_rounds=3, baseline=None)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["abc", "bca", "cab"] * 2
    assert len(rounds) == NUM_WARMUP_ROUNDS + 3


def test_without_a_baseline_there_is_no_ratio():
    latency = measure_latency({"only": lambda: None}, num_rounds=1, baseline=None)
    assert latency["only"].ratio is None
