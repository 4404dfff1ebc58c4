"""A policy that acts at random, the zero of a normalized return."""

# Shape letters in this file: N episodes, A action.

from collections.abc import Mapping

import numpy as np

from lafp.data.randomness import derive_seed, keyed_uniform
from lafp.types import ActionSpec

_ACTIONS = derive_seed("actions of the random policy")


class RandomPolicy:
    """Draws actions uniformly, among the choices or between the bounds. See ``Actor``.

    An action depends on the episode's seed and its step only, so an episode is the same in any
    batch.
    """

    reads = frozenset({"image"})

    def __init__(self, spec: ActionSpec, seeds: np.ndarray) -> None:
        self.spec = spec
        self._all_seeds_N = self._seeds_N = np.asarray(seeds, np.int64)
        self._num_steps = 0

    def reset(self, num_episodes: int, seed: int) -> None:
        """See ``Actor``. The actions come from the episodes' own seeds."""
        assert num_episodes == len(self._all_seeds_N)
        self._seeds_N, self._num_steps = self._all_seeds_N, 0

    def end_where(self, is_over: np.ndarray) -> None:
        """See ``Actor``."""
        self._seeds_N = self._seeds_N[~is_over]

    def act(self, obs: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """See ``Actor``. The observations do not matter."""
        keys = self._seeds_N, _ACTIONS, self._num_steps
        self._num_steps += 1
        if self.spec.is_discrete:
            return (keyed_uniform(*keys) * self.spec.dim).astype(np.int64)
        uniform_NA = keyed_uniform(*(np.expand_dims(k, -1) for k in keys), np.arange(self.spec.dim))
        low_A, high_A = np.array(self.spec.low), np.array(self.spec.high)
        return (low_A + (high_A - low_A) * uniform_NA).astype(np.float32)
