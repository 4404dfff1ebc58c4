"""Samples a listing so that large inputs are likelier, and estimates totals over all inputs.

Priority sampling (Duffield, Lund and Thorup, 2007, arXiv:cs/0509026): an input of weight w gets the
priority w / u, u uniform in (0, 1]. The inputs with the n highest priorities are the sample. With
the (n + 1)-th priority as threshold tau, an input was sampled with probability p = min(1, w / tau),
so it counts 1 / p times. The sample takes one pass over the listing, and always holds every input
with a weight above tau. u is a hash of the URI, so the sample is the same every time.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from data_pipelines.preprocess.rows import VideoItem

_BASE_BYTES = 2**18
"""Weight of an input besides its bytes: opening it takes about as long as decoding this many."""
_UNSIZED_BYTES = 2**22
"""Size assumed for inputs whose size the listing does not know."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Holds the sampled inputs, in descending order of priority."""

    items: Sequence[VideoItem]
    priorities: Sequence[float]
    """Priorities of ``items``, and of the next input if there is one."""
    num_inputs: int
    num_bytes: int
    total_weight: float
    """Sum of the weights of all inputs."""

    def estimate(self, values: Sequence[float]) -> "Estimated":
        """Estimates a total over all inputs from values measured on the first of ``items``.

            sum y / p, times the known total of w over its own estimate

        Args:
            values: y of the first items, at least one.
        """
        num = len(values)
        threshold = self.priorities[num] if num < len(self.priorities) else 0.0
        weights = [weight_of(item) for item in self.items[:num]]
        shares = [min(1.0, weight / threshold) if threshold else 1.0 for weight in weights]
        total = sum(y / p for y, p in zip(values, shares, strict=True))
        # Costs grow with the weights, whose true total is known. The ratio to the estimated total
        # takes out most of the luck of the draw.
        total_weight = sum(w / p for w, p in zip(weights, shares, strict=True))
        per_weight = total / total_weight
        squares = sum(
            (1 - p) * ((y - per_weight * w) / p) ** 2
            for y, w, p in zip(values, weights, shares, strict=True)
        )
        mean = per_weight * self.total_weight
        error = math.sqrt(squares * num / max(1, num - 1)) * self.total_weight / total_weight
        return Estimated(mean=mean, factor=math.exp(2 * error / mean) if mean > 0 else 1.0)


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """Holds a total, and the factor by which it may be off (two standard errors)."""

    mean: float
    factor: float

    @property
    def low(self) -> float:
        """Returns the lower end of the interval."""
        return self.mean / self.factor

    @property
    def high(self) -> float:
        """Returns the upper end of the interval."""
        return self.mean * self.factor


def draw(items: Iterable[VideoItem], most: int) -> Sample:
    """Goes through a listing and keeps ``most`` inputs and one more priority."""
    num_inputs = num_bytes = 0
    total_weight = 0.0
    heap: list[tuple[float, int, VideoItem]] = []
    for item in items:
        num_inputs, num_bytes = num_inputs + 1, num_bytes + item.num_bytes
        total_weight += (weight := weight_of(item))
        ranked = weight / _uniform(item.uri), num_inputs, item
        (heapq.heappush if len(heap) <= most else heapq.heappushpop)(heap, ranked)
    ordered = sorted(heap, reverse=True)
    return Sample(
        items=[item for _, _, item in ordered[:most]],
        priorities=[priority for priority, _, _ in ordered],
        num_inputs=num_inputs,
        num_bytes=num_bytes,
        total_weight=total_weight,
    )


def weight_of(item: VideoItem) -> float:
    """Returns the expected cost of an input, in bytes."""
    return _BASE_BYTES + (item.num_bytes or _UNSIZED_BYTES)


def _uniform(uri: str) -> float:
    """Hashes a URI to a number in (0, 1]."""
    return (int(sha256(uri.encode(errors="surrogateescape")).hexdigest()[:13], 16) + 1) / 16**13
