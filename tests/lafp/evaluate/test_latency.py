import pytest

from lafp.evaluate.latency import NUM_WARMUP_ROUNDS, measure_latency


def test_medians_and_ratios_are_those_of_the_calls(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    durations_s = {"bc": iter([0.004] * 6 + [0.5] * 2), "flow": iter([0.005] * 6 + [0.75] * 2)}

    def call(name):
        now[0] += next(durations_s[name])

    calls = {name: lambda name=name: call(name) for name in durations_s}
    latency = measure_latency(calls, num_rounds=5, baseline="bc")
    assert latency["bc"].median_ms == pytest.approx(4)
    assert latency["bc"].ratio == 1.0
    assert latency["flow"].median_ms == pytest.approx(5)
    assert latency["flow"].ratio == pytest.approx(1.25), "a busy spell hits both of a round"
    assert latency["flow"].num_rounds == 5


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
