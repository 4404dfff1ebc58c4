import pytest

from lafp.evaluate.acting.latency import NUM_WARMUP_ROUNDS, measure_latency


class Clock:
    """A machine whose calls take the given times; ``waited_s`` of them without the processor."""

    def __init__(self, monkeypatch, **seconds):
        self.now, self.cpu_s, self.waits = 0.0, 0.0, {}
        self._seconds = {name: iter(of_call) for name, of_call in seconds.items()}
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("time.process_time", lambda: self.cpu_s)

    def calls(self, waited_share=0.0):
        def call(name):
            elapsed_s = next(self._seconds[name])
            self.now += elapsed_s
            self.cpu_s += (1 - waited_share) * elapsed_s

        return {name: lambda name=name: call(name) for name in self._seconds}


def test_medians_and_ratios_are_those_of_the_calls(monkeypatch):
    # The baseline is called twice per round.
    clock = Clock(monkeypatch, bc=[0.004] * 12 + [0.5] * 4, flow=[0.005] * 6 + [0.75] * 2)
    latency = measure_latency(clock.calls(), num_rounds=5, baseline="bc")
    assert latency["bc"].median_ms == pytest.approx(4)
    assert latency["bc"].ratio == 1.0
    assert latency["flow"].median_ms == pytest.approx(5)
    assert latency["flow"].ratio == pytest.approx(1.25), "a busy spell hits both of a round"
    assert latency["flow"].num_rounds == 5
    assert latency["flow"].disturbance == pytest.approx(0)


def test_a_baseline_that_differs_from_itself_shows_that_the_machine_is_busy(monkeypatch):
    clock = Clock(monkeypatch, bc=[0.004, 0.006] * 8, flow=[0.005] * 8)
    latency = measure_latency(clock.calls(), num_rounds=5, baseline="bc")
    assert latency["bc"].disturbance == latency["flow"].disturbance > 0.3


def test_waiting_for_a_processor_shows_that_the_machine_is_busy(monkeypatch):
    clock = Clock(monkeypatch, only=[0.004] * 16)
    latency = measure_latency(clock.calls(waited_share=0.25), num_rounds=5, baseline=None)
    assert latency["only"].disturbance == pytest.approx(0.25)


def test_calls_are_interleaved_and_take_turns_at_the_start():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    measure_latency(calls, num_rounds=4, baseline=None)
    rounds = ["".join(order[i : i + 4]) for i in range(0, len(order), 4)]
    in_turn = ["abca", "bcaa", "caab", "aabc"]
    assert rounds == [*in_turn[:NUM_WARMUP_ROUNDS], *in_turn]


def test_without_a_baseline_there_is_no_ratio():
    latency = measure_latency({"only": lambda: None}, num_rounds=1, baseline=None)
    assert latency["only"].ratio is None
