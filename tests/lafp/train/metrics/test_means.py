import time

import pytest
import torch

from lafp.train.metrics.means import Means
from lafp.train.metrics.timer import StepTimer
from lafp.types import LossOutput


def out(loss: float, **metrics: float) -> LossOutput:
    return LossOutput(
        loss=torch.tensor(loss), metrics={k: torch.tensor(v) for k, v in metrics.items()}
    )


@pytest.fixture
def means() -> Means:
    return Means(torch.device("cpu"))


def test_metrics_are_means_over_the_interval(means):
    means.add([out(1.0, part=2.0), out(2.0, part=4.0)])
    means.add([out(6.0, part=9.0)])
    assert means.read() == {"loss": 3, "part": 5}


def test_what_was_read_does_not_count_again(means):
    means.add([out(100.0)])
    means.read()
    assert means.read() == {}
    means.add([out(1.0)])
    assert means.read() == {"loss": 1}


def test_a_metric_counts_where_it_is_defined_and_is_absent_where_it_never_is(means):
    means.add([out(1.0, rank=float("nan"), spread=2.0, never=float("nan"))])
    means.add([out(3.0, rank=4.0, spread=4.0, never=float("inf"))])
    assert means.read() == {"loss": 2, "rank": 4, "spread": 3}


class Clock:
    """Stands still until it is told to go on."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_the_share_of_waiting_is_measured(clock):
    timer = StepTimer(windows_per_step=8)
    with timer.waiting():
        clock.now_s += 3
    clock.now_s += 1
    timer.end_step()
    metrics = timer.metrics()
    assert metrics["data_wait_share"] == pytest.approx(0.75)
    assert metrics["step_s"] == pytest.approx(4) and metrics["windows_per_s"] == pytest.approx(2)


def test_a_restart_forgets_the_time_before_it(clock):
    timer = StepTimer(windows_per_step=8)
    with timer.waiting():
        clock.now_s += 3
    timer.end_step()
    timer.restart()
    clock.now_s += 1
    timer.end_step()
    metrics = timer.metrics()
    assert metrics["data_wait_share"] == 0 and metrics["step_s"] == pytest.approx(1)
