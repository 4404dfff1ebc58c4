"""Measures the time per action, and whether the machine was quiet enough to measure it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_WARMUP_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of one call."""

    median_ms: float
    ratio: float | None
    """Median over rounds of (this call / the baseline's call of the same round)."""
    num_rounds: int
    disturbance: float
    """Share by which other work on the machine disturbed the timings, equal for all calls: the
    larger of two shares, by how much a call differs from itself when it is repeated in the same
    round (median over rounds), and how much of the time the process waited for a processor."""


def measure_latency(
    calls: Mapping[str, Callable[[], object]], *, num_rounds: int, baseline: str | None
) -> dict[str, Latency]:
    """Times every call once per round. Each round starts with another call.

    One call, the baseline where there is one, is timed twice per round: what it differs by from
    itself comes from the machine.

    Args:
        calls: Name -> the call to time. On a GPU it must wait for its result.
        num_rounds: Timings of each call, after a few untimed ones.
        baseline: Name of the call that the others are compared with; None compares with nothing.
    """
    repeated = next(iter(calls)) if baseline is None else baseline
    turns = [*calls.values(), calls[repeated]]
    _time_rounds(turns, NUM_WARMUP_ROUNDS)
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    seconds = _time_rounds(turns, num_rounds)
    waited = 1 - (time.process_time() - begin_cpu_s) / (time.perf_counter() - begin_s)
    by_name = dict(zip(calls, seconds, strict=False))
    differs = float(np.median(np.abs(seconds[-1] / by_name[repeated] - 1)))
    disturbance = max(differs, waited)
    return {
        name: _latency(of_call, by_name.get(baseline or ""), disturbance)
        for name, of_call in by_name.items()
    }


def _time_rounds(turns: Sequence[Callable[[], object]], num_rounds: int) -> np.ndarray:
    """Returns the seconds that each call took in each round, float [calls, rounds]."""
    seconds = np.zeros((len(turns), num_rounds))
    for round_number in range(num_rounds):
        for turn in range(len(turns)):
            index = (round_number + turn) % len(turns)
            start = time.perf_counter()
            turns[index]()
            seconds[index, round_number] = time.perf_counter() - start
    return seconds


def _latency(
    seconds: np.ndarray, baseline_seconds: np.ndarray | None, disturbance: float
) -> Latency:
    ratio = None
    if baseline_seconds is not None:
        ratio = float(np.median(np.divide(seconds, baseline_seconds)))
    return Latency(
        median_ms=1000 * float(np.median(seconds)),
        ratio=ratio,
        num_rounds=len(seconds),
        disturbance=disturbance,
    )
