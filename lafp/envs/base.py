"""What every environment is: many episodes at once, each determined by its seed alone."""

# Shape letters in this package: N episodes, H height, W width, A true action, S state, M forks.

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lafp.types import ActionSpec


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What happened to N episodes in one step. Finished episodes stand still."""

    obs: np.ndarray
    """uint8 [N, H, W, 3], after the step."""
    reward: np.ndarray
    """float32 [N]; 0 for episodes that were over before."""
    terminated: np.ndarray
    """bool [N]: the task ended the episode (success or failure), now or earlier."""
    truncated: np.ndarray
    """bool [N]: out of steps without an end."""
    success: np.ndarray | None
    """bool [N]: the episode has succeeded. None where the task knows only its return."""

    @property
    def done(self) -> np.ndarray:
        """Which episodes are over, for either reason; bool [N]."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """N episodes side by side. Built as ``ENVS.get(cfg.name)(cfg)``; ``cls.Config`` is its config.

    An episode is a function of its seed and its actions: the same in any batch, on any machine.
    """

    task: str
    """Name of the task in result tables."""
    has_distractors: bool
    height_px: int
    width_px: int
    fps: float
    """Steps per second, and so the frame rate of its videos."""
    max_steps: int
    action_spec: ActionSpec
    mode_sizes: tuple[int, ...]
    """Ways to go at each of the M forks of the task; empty when there is only one way."""

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Starts one episode per seed (int64 [N], not negative); obs is uint8 [N, H, W, 3]."""
        ...

    def step(self, actions: np.ndarray) -> StepResult:
        """Moves all unfinished episodes on by one step.

        Args:
            actions: float [N, A] in the environment's units, or int64 [N] if discrete. Values out
                of range are clipped.
        """
        ...

    def expert(self) -> np.ndarray:
        """The demonstrator's action in the current state, in range: what ``step`` takes.

        Calling it twice in one state gives the same action: its noise is keyed by the step.
        """
        ...

    def state(self) -> np.ndarray:
        """Low-dimensional state, float32 [N, S]: what the labels call ``state``."""
        ...

    def modes(self) -> np.ndarray:
        """Which way each episode took at each fork so far, int64 [N, M]; -1 where undecided."""
        ...
