"""The interface of environments: many episodes in parallel, each determined by its seed."""

# Shape letters in this package: N episodes, H height, W width, A true action, S state, M forks,
# K tasks.

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lafp.data.randomness import derive_seed
from lafp.types import ActionSpec


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Result of one step of N episodes. Finished episodes do not change any more."""

    obs: np.ndarray
    """uint8 [N, H, W, 3], after the step."""
    reward: np.ndarray
    """float32 [N]; 0 for episodes that were over before."""
    terminated: np.ndarray
    """bool [N]: the task has ended the episode (success or failure), now or earlier."""
    truncated: np.ndarray
    """bool [N]: the episode has used up its steps without being terminated."""
    success: np.ndarray | None
    """bool [N]: the episode has succeeded. None if the task defines no success, only a return."""
    shows_end: bool = True
    """Whether ``obs`` shows the state in which an episode was terminated. Otherwise it repeats the
    observation before, and recordings leave out the step between the two."""

    @property
    def done(self) -> np.ndarray:
        """True for episodes that are over, for either reason; bool [N]."""
        return self.terminated | self.truncated


class VectorEnv(Protocol):
    """N episodes in parallel. ``ENVS.build(cfg)`` builds one, ``cls.Config`` configures it.

    An episode depends only on its seed and its actions, so it is the same in any batch and on any
    machine.
    """

    task: str
    """Name of the task, or of the set of tasks, in result tables."""
    tasks: tuple[str, ...]
    """Names of K tasks, where an episode plays one of several: with seed s, number s % K. Empty if
    all episodes play the same one."""
    has_distractors: bool
    has_return: bool
    """Whether the return says how well an episode went. Elsewhere rewards repeat success, or shape
    a training and are no measure."""
    height_px: int
    width_px: int
    fps: float
    """Steps per second, which is also the frame rate of the videos."""
    max_steps: int
    action_spec: ActionSpec
    mode_sizes: tuple[int, ...]
    """Number of ways at each of the M forks of the task; empty if there is only one way."""

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """Starts one episode per seed.

        Args:
            seeds: int64 [N], not negative.

        Returns:
            The first observations, uint8 [N, H, W, 3].
        """
        ...

    def step(self, actions: np.ndarray) -> StepResult:
        """Advances all unfinished episodes by one step.

        Args:
            actions: float [N, A] in the environment's units, or int64 [N] if discrete. Values out
                of range are clipped.
        """
        ...

    def expert(self) -> np.ndarray:
        """Returns the demonstrator's actions in the current states, in the form of ``step``.

        A second call in the same state returns the same actions, because their noise depends only
        on seed and step.
        """
        ...

    def expert_noise(self) -> np.ndarray | None:
        """Returns the exploration noise in ``expert()``, float32 [N, A], which no state tells.

        It is the difference to the action without noise, both in range. None if demonstrations
        carry none.
        """
        ...

    def agent_mask(self) -> np.ndarray | None:
        """Returns which pixels of the current observations show the agent, bool [N, H, W].

        It may cost as much as drawing the observations. None if the simulator cannot tell.
        """
        ...

    def state(self) -> np.ndarray:
        """Returns the low-dimensional states, float32 [N, S], which become the label ``state``."""
        ...

    def modes(self) -> np.ndarray:
        """Returns the way that each episode took at each fork, int64 [N, M]; -1 if undecided."""
        ...


def episode_seeds(env: VectorEnv, seed: int, purpose: str, first: int, last: int) -> np.ndarray:
    """Draws the seeds of the episodes ``first .. last - 1``, int64 [N].

    Episode n plays task n % K of K, so that all tasks get the same number of episodes.

    Args:
        env: The environment.
        seed: Seed of the whole job.
        purpose: Distinguishes several sets of episodes of a job.
        first: Number of the first episode.
        last: Number after the last episode.
    """
    seeds_N = np.array([derive_seed(seed, purpose, n) for n in range(first, last)], np.int64)
    num_tasks = len(env.tasks)
    if not num_tasks:
        return seeds_N
    # Half of the multiples of K: the largest seed plus a task's number would be no int64 any more.
    return seeds_N // (2 * num_tasks) * num_tasks + np.arange(first, last) % num_tasks


def tasks_of(env: VectorEnv, seeds: np.ndarray) -> tuple[str, ...]:
    """Returns the name of each episode's task; empty if the environment has only one task."""
    if not env.tasks:
        return ()
    return tuple(env.tasks[number] for number in np.asarray(seeds) % len(env.tasks))


def conditions_of(env: VectorEnv, seeds: np.ndarray) -> np.ndarray | None:
    """Returns each episode's task as a one-hot vector, float32 [N, K]; None if there is only one.

    It is the ``condition`` of a policy that is told its task, as in Meta-World's MT10 and MT50.
    """
    if not env.tasks:
        return None
    return np.eye(len(env.tasks), dtype=np.float32)[np.asarray(seeds) % len(env.tasks)]
