"""Draws random numbers that depend on their purpose, not on who draws them or when.

Counter-based: a number is a hash of its keys, e.g. (seed, epoch, clip, window). So it is the same
for any number of workers and after any resume, and there is no generator state to keep.
"""

import hashlib

import numpy as np

# The increment of splitmix64: 2^64 over the golden ratio, made odd.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def mixed(x: np.ndarray) -> np.ndarray:
    """Applies the finalizer of splitmix64 (Steele et al., 2014): every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keyed_uint64(*keys: int | np.ndarray) -> np.ndarray:
    """Hashes integer keys, broadcast against each other, to uint64."""
    # Overflow is wanted, because splitmix64 computes modulo 2^64.
    with np.errstate(over="ignore"):
        state = np.asarray(0, np.uint64)
        for key in keys:
            word = np.asarray(key).astype(np.uint64)
            state = mixed((state ^ word) + _GAMMA)
        return state


def keyed_uniform(*keys: int | np.ndarray) -> np.ndarray:
    """Draws float64 uniform in [0, 1), one per broadcast element of ``keys``."""
    # 53 bits are what a float64 holds exactly, so the result never rounds up to 1.
    return (keyed_uint64(*keys) >> np.uint64(11)) * (1.0 / (1 << 53))


def keyed_normal(*keys: int | np.ndarray) -> np.ndarray:
    """Draws float64 standard normal (Box-Muller), one per broadcast element of ``keys``."""
    # A uniform number may be 0 but never 1, so its logarithm is taken of 1 - u.
    radius = np.sqrt(-2 * np.log1p(-keyed_uniform(*keys, 0)))
    return radius * np.cos(2 * np.pi * keyed_uniform(*keys, 1))


def keyed_permutation(n: int, *keys: int) -> np.ndarray:
    """Draws a permutation of range(n), int64."""
    # A stable sort breaks ties alike on every machine.
    return np.argsort(keyed_uint64(*keys, np.arange(n)), kind="stable")


def derive_seed(*parts: int | str) -> int:
    """Hashes names and numbers to a 63-bit seed: ``derive_seed(cfg.seed, "decoder", step)``."""
    # A separator that no name contains: ("a", 12) and ("a1", 2) must differ.
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
