"""Measures mode coverage: whether a policy goes every way that its demonstrators go."""

# Shape letters in this file: N episodes, M forks.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ModeEntropy:
    """Entropy of the ways taken, in bits. NaN where no episode got far enough to count."""

    per_fork: float
    """Mean over forks, each over the episodes that passed it."""
    joint: float
    """Entropy of the whole path, over the episodes that passed every fork."""
    num_decided: int
    """Episodes behind ``joint``."""


def mode_entropy(modes: np.ndarray, mode_sizes: Sequence[int]) -> ModeEntropy:
    """Computes the plug-in entropy of the ways that episodes took.

    The plug-in estimate is biased down by about (K - 1) / (2 n ln 2) bits for K ways and n
    episodes (Miller, 1955): 0.007 bits for the 4 paths of slalom at n = 300, 0.1 at n = 20. No
    correction is made; ``mode_coverage`` compares with as many demonstrations, so most of it
    cancels there. Read it beside the success rate: episodes that failed early do not count.

    Args:
        modes: int [N, M]: way taken at each fork, -1 where the episode did not pass it.
        mode_sizes: Ways at each of the M forks.
    """
    if modes.ndim != 2 or modes.shape[1] != len(mode_sizes) or not len(mode_sizes):
        raise ValueError(f"Expected modes [N, {len(mode_sizes)}], got {modes.shape}.")
    per_fork = [
        _entropy(way_N[way_N >= 0], size) for way_N, size in zip(modes.T, mode_sizes, strict=True)
    ]
    passed_all = modes[(modes >= 0).all(axis=1)]
    paths = np.ravel_multi_index(tuple(passed_all.T), tuple(mode_sizes))
    return ModeEntropy(
        per_fork=float(np.mean(per_fork)),
        joint=_entropy(paths, int(np.prod(mode_sizes))),
        num_decided=len(passed_all),
    )


@dataclass(frozen=True, kw_only=True)
class ModeCoverage:
    """Says how many of its demonstrators' ways a policy goes.

    Both shares divide a policy's mode entropy by that of its demonstrators: 1 means that it spreads
    over the ways as evenly as they do, 0 that it always goes the same way.
    """

    side_entropy: float
    """Share of the mean entropy per fork."""
    mode_coverage: float
    """Share of the entropy of whole paths."""
    num_decided: int
    """The policy's episodes that passed every fork."""


def mode_coverage(
    modes: np.ndarray, expert_modes: np.ndarray, mode_sizes: Sequence[int]
) -> ModeCoverage:
    """Compares the ways of a policy with its demonstrators', int [N, M] each, N about the same.

    NaN where the demonstrators themselves take one way only: there is nothing to cover.
    """
    policy, expert = mode_entropy(modes, mode_sizes), mode_entropy(expert_modes, mode_sizes)
    return ModeCoverage(
        side_entropy=_share(policy.per_fork, expert.per_fork),
        mode_coverage=_share(policy.joint, expert.joint),
        num_decided=policy.num_decided,
    )


def _share(entropy: float, of: float) -> float:
    return entropy / of if of > 0 else float("nan")


def _entropy(ways: np.ndarray, size: int) -> float:
    if not len(ways):
        return float("nan")
    share = np.bincount(ways, minlength=size) / len(ways)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum()) + 0.0  # no -0.0
