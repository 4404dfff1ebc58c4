"""Time per action. All methods in one interleaved run, so that a busy spell hits all alike."""

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


def measure_latency(
    calls: Mapping[str, Callable[[], object]], *, num_rounds: int, baseline: str | None
) -> dict[str, Latency]:
    """Times every call once per round, starting each round with another one.

    Args:
        calls: What to time, by name. On a GPU a call must wait for its result.
        num_rounds: Timings of each call, after a few untimed ones.
        baseline: Name of the call that the others are compared with; None compares with nothing.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(NUM_WARMUP_ROUNDS + num_rounds):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            calls[name]()
            elapsed_s = time.perf_counter() - start
            if round_number >= NUM_WARMUP_ROUNDS:
                seconds[name].append(elapsed_s)
    return {name: _latency(seconds[name], seconds.get(baseline or "")) for name in names}


def _latency(seconds: Sequence[float], baseline_seconds: Sequence[float] | None) -> Latency:
    ratio = None
    if baseline_seconds is not None:
        ratio = float(np.median(np.divide(seconds, baseline_seconds)))
    return Latency(median_ms=1000 * float(np.median(seconds)), ratio=ratio, num_rounds=len(seconds))
