"""A sample of a listing in which large inputs are likelier, and what it says about all of them.

Priority sampling (Duffield, Lund and Thorup, 2007, arXiv:cs/0509026): an input of weight w gets
the priority w / u, u uniform in (0, 1]. The n highest priorities are the sample. With the
(n + 1)-th as threshold tau, an input stands for 1 / p of its like, p = min(1, w / tau). It takes
one pass over the listing, and an input larger than tau is certain to be in the sample. u is a hash
of the URI, so the sample is the same every time.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from data_pipelines.preprocess.rows import VideoItem

_BASE_BYTES = 2**18
"""What an input costs beside its bytes: opening one takes as long as this many."""
_UNSIZED_BYTES = 2**22
"""Of inputs whose size the listing does not know."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The inputs that may be looked at, the likeliest first."""

    items: Sequence[VideoItem]
    priorities: Sequence[float]
    """Of ``items``, and of the next one where there is one."""
    num_inputs: int
    num_bytes: int
    total_weight: float
    """Of all inputs."""

    def estimate(self, values: Sequence[float]) -> "Estimated":
        """The total over all inputs of what was measured on the first of ``items``.

            sum y / p, times the known total of w over its own estimate

        Args:
            values: y of the first items, at least one.
        """
        num = len(values)
        threshold = self.priorities[num] if num < len(self.priorities) else 0.0
        weights = [weight_of(item) for item in self.items[:num]]
        shares = [min(1.0, weight / threshold) if threshold else 1.0 for weight in weights]
        total = sum(y / p for y, p in zip(values, shares, strict=True))
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
    """A total, and the factor by which it may be off (two standard errors)."""

    mean: float
    factor: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean / self.factor

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean * self.factor


def draw(items: Iterable[VideoItem], most: int) -> Sample:
    """Goes through a listing, remembering ``most`` inputs and one priority more."""
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
    """What an input is expected to cost, in bytes."""
    return _BASE_BYTES + (item.num_bytes or _UNSIZED_BYTES)


def _uniform(uri: str) -> float:
    """The hash as a number in (0, 1]."""
    return (int(sha256(uri.encode(errors="surrogateescape")).hexdigest()[:13], 16) + 1) / 16**13
