"""Builds a vector environment from single episodes, for simulators without batches."""

# Shape letters in this file: N episodes, H height, W width, A true action, S state, M forks.

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lafp.config.ranges import check_at_least
from lafp.data.randomness import keyed_normal, keyed_uniform
from lafp.envs.base import StepResult
from lafp.types import ActionSpec

# Purpose of a random number of the exploration: the second key, after the episode's seed.
_IS_NOISY, _NOISE = 10, 11


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig:
    """Noise on the demonstrator's actions, in some of the episodes, drawn by seed.

    Without noise, the state determines an expert's action, so that a probe of latent actions could
    read the action from the state alone.
    """

    share: float = 0.0
    """Share of the episodes with noise."""
    std: float = 0.2
    """Standard deviation of Gaussian noise on each action dimension, in the environment's units."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be in [0, 1], got {self.share}.")
        check_at_least(self, 0, "std")

    def noise_of(self, seed: int, step: int, dim: int) -> np.ndarray | None:
        """Like ``noise``, but None if no episode has any."""
        return self.noise(seed, step, dim) if self.share > 0 else None

    def noise(self, seed: int, step: int, dim: int) -> np.ndarray:
        """Draws the noise for one step of the episode with this seed, float64 [A]."""
        if keyed_uniform(seed, _IS_NOISY) >= self.share:
            return np.zeros(dim)
        return self.std * keyed_normal(seed, _NOISE, step, np.arange(dim))


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Result of one step of one episode."""

    reward: float
    has_succeeded: bool = False
    has_failed: bool = False
    """Whether the episode can no longer succeed. It ends with success or failure."""


class Episode(ABC):
    """One episode of a simulator. It is deterministic and may not depend on other episodes."""

    @abstractmethod
    def step(self, action: np.ndarray) -> Moved:
        """Advances by one step. ``action`` is in range, float64 [A], or a number if discrete."""

    @abstractmethod
    def frame(self) -> np.ndarray:
        """Draws the current camera image, uint8 [H, W, 3]."""

    def mask(self) -> np.ndarray | None:
        """Returns where the last ``frame()`` shows the agent, bool [H, W]; None if unknown."""
        return None

    @abstractmethod
    def expert(self) -> np.ndarray:
        """Returns the demonstrator's action now, float [A] or a number; repeatable."""

    def exploration(self) -> np.ndarray | None:
        """Returns the noise that ``expert`` has added, float [A]; None if it never adds any."""
        return None

    @abstractmethod
    def state(self) -> np.ndarray:
        """Returns the low-dimensional state, float [S]."""

    def modes(self) -> Sequence[int]:
        """Returns the way taken at each of the M forks so far; -1 if undecided."""
        return ()


class EpisodesEnv(ABC):
    """See ``VectorEnv``. Steps its episodes one after the other.

    Subclasses set the attributes of ``VectorEnv`` and implement ``start``.
    """

    max_steps: int
    action_spec: ActionSpec
    has_success: bool
    """Whether the task defines success; otherwise only the return counts."""
    tasks: tuple[str, ...] = ()

    @abstractmethod
    def start(self, seed: int) -> Episode:
        """Starts a new episode, which its seed alone determines."""

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """See ``VectorEnv``."""
        seeds = np.asarray(seeds, np.int64)
        if seeds.size and seeds.min() < 0:
            raise ValueError(f"Seeds must not be negative, got {seeds.min()}.")
        self._episodes = [self.start(int(seed)) for seed in seeds]
        self._num_steps = 0
        self._success_N = np.zeros(len(seeds), bool)
        self._terminated_N = np.zeros(len(seeds), bool)
        self._obs_NHWC = np.stack([episode.frame() for episode in self._episodes])
        return self._obs_NHWC

    def step(self, actions: np.ndarray) -> StepResult:
        """See ``VectorEnv``."""
        actions = self._in_range(np.asarray(actions))
        is_active_N = ~self._terminated_N & (self._num_steps < self.max_steps)
        self._num_steps += 1
        # A copy, because the caller may have kept the last observations.
        obs_NHWC, reward_N = self._obs_NHWC.copy(), np.zeros(len(self._episodes), np.float32)
        for n in np.flatnonzero(is_active_N):
            moved = self._episodes[n].step(actions[n])
            reward_N[n], self._success_N[n] = moved.reward, moved.has_succeeded
            self._terminated_N[n] = moved.has_succeeded or moved.has_failed
            obs_NHWC[n] = self._episodes[n].frame()
        self._obs_NHWC = obs_NHWC
        return StepResult(
            obs=obs_NHWC,
            reward=reward_N,
            terminated=self._terminated_N.copy(),
            truncated=~self._terminated_N & (self._num_steps >= self.max_steps),
            success=self._success_N.copy() if self.has_success else None,
        )

    def expert(self) -> np.ndarray:
        """See ``VectorEnv``."""
        actions = self._in_range(np.stack([episode.expert() for episode in self._episodes]))
        return actions if self.action_spec.is_discrete else actions.astype(np.float32)

    def agent_mask(self) -> np.ndarray | None:
        """See ``VectorEnv``."""
        drawn = (episode.mask() for episode in self._episodes)
        masks = [mask for mask in drawn if mask is not None]
        return np.stack(masks) if len(masks) == len(self._episodes) else None

    def expert_noise(self) -> np.ndarray | None:
        """See ``VectorEnv``."""
        drawn = (episode.exploration() for episode in self._episodes)
        noise = [of_episode for of_episode in drawn if of_episode is not None]
        if len(noise) < len(self._episodes):
            return None
        actions = np.stack([episode.expert() for episode in self._episodes])
        without = self._in_range(actions - np.stack(noise))
        return (self._in_range(actions) - without).astype(np.float32)

    def state(self) -> np.ndarray:
        """See ``VectorEnv``."""
        return np.stack([episode.state() for episode in self._episodes]).astype(np.float32)

    def modes(self) -> np.ndarray:
        """See ``VectorEnv``."""
        modes = [episode.modes() for episode in self._episodes]
        return np.array(modes, np.int64).reshape(len(modes), -1)

    def _in_range(self, actions: np.ndarray) -> np.ndarray:
        """Checks the shape of actions and clips them: float64 [N, A], or int64 [N] if discrete."""
        spec, num = self.action_spec, len(self._episodes)
        expected = (num,) if spec.is_discrete else (num, spec.dim)
        if actions.shape != expected:
            raise ValueError(f"Expected actions of shape {expected}, got {actions.shape}.")
        if spec.is_discrete:
            return np.clip(actions.astype(np.int64), 0, spec.dim - 1)
        return np.clip(actions.astype(np.float64), spec.low, spec.high)
