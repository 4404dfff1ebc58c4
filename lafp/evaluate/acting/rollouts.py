"""Episodes of an agent in an environment, many at once."""

# Shape letters in this file: N episodes, T steps of the longest, H height, W width, A true action,
# S state, M forks, K tasks.

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lafp.config import ConfigError
from lafp.envs.base import VectorEnv, conditions_of, tasks_of


class Actor(Protocol):
    """Chooses actions for N episodes side by side, e.g. ``lafp.agent.Agent``."""

    @property
    def reads(self) -> Set[str]:
        """Parts of an observation that ``act`` reads: ``image``, ``state``, ``condition``.

        If they are several, ``act`` gets them as a mapping.
        """
        ...

    def reset(self, num_episodes: int, seed: int) -> None:
        """Forgets earlier episodes. ``seed`` determines the noise."""
        ...

    def end_where(self, is_over: np.ndarray) -> None:
        """Ends episodes: from now on ``act`` gets the others only.

        Args:
            is_over: bool [N], one for each episode that had not ended.
        """
        ...

    def act(self, obs: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """Maps observations, uint8 [N, H, W, 3], to actions in the environment's units, [N, A].

        N is the number of episodes that have not ended.
        """
        ...


def observation(actor: Actor, seen: Mapping[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
    """Returns what ``actor`` reads of an observation: ``image`` [N, H, W, 3], ``state`` [N, S], ...

    Raises:
        ConfigError: It reads something that is not there.
    """
    if missing := actor.reads - seen.keys():
        raise ConfigError(f"The policy reads {', '.join(sorted(missing))}: there is none here.")
    return seen["image"] if len(actor.reads) == 1 else {name: seen[name] for name in actor.reads}


def seen_at(
    env: VectorEnv, image: np.ndarray, condition: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns all that an actor may read of the environment's current state.

    Args:
        env: The environment.
        image: Its current pictures, uint8 [N, H, W, 3].
        condition: The episodes' tasks, float32 [N, K], from ``conditions_of``.
    """
    seen = {"image": image, "state": env.state()}
    return seen if condition is None else seen | {"condition": condition}


class Expert:
    """The environment's demonstrator as an actor."""

    reads = frozenset({"image"})

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self._rows = np.zeros(0, np.int64)

    def reset(self, num_episodes: int, seed: int) -> None:
        """See ``Actor``. The expert's noise comes from the episodes' own seeds."""
        self._rows = np.arange(num_episodes)

    def end_where(self, is_over: np.ndarray) -> None:
        """See ``Actor``."""
        self._rows = self._rows[~is_over]

    def act(self, obs: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """See ``Actor``; ``obs`` must be of the environment's current state."""
        return self.env.expert()[self._rows]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One episode, frame by frame."""

    frames: np.ndarray
    """uint8 [L + 1, H, W, 3]: the first observation and one after each of L steps."""
    actions: np.ndarray
    """float32 [L, A] or int64 [L]: row t acts between frames t and t + 1."""
    state: np.ndarray
    """float32 [L + 1, S]."""
    action_noise: np.ndarray | None = None
    """float32 [L, A]: the exploration noise in a demonstrator's actions; None where none is."""
    mask: np.ndarray | None = None
    """bool [L + 1, H, W]: where each frame shows the agent; None unless it was asked for."""
    condition: np.ndarray | None = None
    """float32 [K]: the episode's task as a one-hot vector; None where there is only one."""


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """Outcome of N episodes."""

    seeds: np.ndarray
    """int64 [N]."""
    success: np.ndarray | None
    """bool [N]; None where the task knows no success."""
    episode_return: np.ndarray
    """float32 [N]: sum of rewards."""
    length: np.ndarray
    """int64 [N]: steps until the end."""
    modes: np.ndarray
    """int64 [N, M]: way taken at each fork, -1 where undecided."""
    path: np.ndarray
    """float32 [N, T + 1, S]: states; an episode that is over stays at its last."""
    tasks: tuple[str, ...]
    """Name of each episode's task; empty where the environment has only one."""
    recordings: tuple[Recording, ...]
    """Frames of the first episodes."""

    def successes(self) -> list[bool | None]:
        """One per episode; None where the task knows no success."""
        if self.success is None:
            return [None] * len(self.seeds)
        return [bool(success) for success in self.success]


def rollout(
    env: VectorEnv,
    actor: Actor,
    seeds: np.ndarray,
    *,
    num_recorded: int = 0,
    seed: int = 0,
    has_masks: bool = False,
) -> RolloutResult:
    """Runs one episode per seed to its end, all at once.

    Args:
        env: Environment; its episodes depend on ``seeds`` alone.
        actor: Chooses the actions.
        seeds: Seeds of the episodes, int64 [N].
        num_recorded: Number of first episodes whose frames are kept.
        seed: Seed of the actor's noise.
        has_masks: Whether recordings tell where their frames show the agent.

    Raises:
        ConfigError: ``has_masks``, but the simulator cannot tell.
    """
    obs = env.reset(seeds)
    actor.reset(len(seeds), seed)
    condition_NK = conditions_of(env, seeds)
    seen = seen_at(env, obs, condition_NK)
    # Copies: a slice would keep the pictures of all episodes.
    frames, actions, states = [obs[:num_recorded].copy()], [], [seen["state"]]
    noises: list[np.ndarray] = []
    masks = [_agent_mask(env)[:num_recorded].copy()] if has_masks else []
    length = np.zeros(len(seeds), np.int64)
    episode_return = np.zeros(len(seeds), np.float32)
    done = np.zeros(len(seeds), bool)
    while not done.all():
        # Episodes that are over cost the actor nothing. The environment ignores their actions.
        on = ~done
        chosen = actor.act(observation(actor, {name: part[on] for name, part in seen.items()}))
        action = np.zeros((len(seeds), *chosen.shape[1:]), chosen.dtype)
        action[on] = chosen
        if num_recorded and isinstance(actor, Expert):
            noise = env.expert_noise()
            noises += [] if noise is None else [noise[:num_recorded]]
        result = env.step(action)
        length += ~done
        episode_return += np.where(done, 0, result.reward)
        actor.end_where(result.done[on])
        done, seen = result.done, seen_at(env, result.obs, condition_NK)
        frames.append(result.obs[:num_recorded].copy())
        actions.append(action[:num_recorded])
        states.append(seen["state"])
        masks += [_agent_mask(env)[:num_recorded].copy()] if has_masks else []
    # A step between two equal pictures would teach that its action moves nothing.
    num_steps = length if result.shows_end else length - result.terminated
    return RolloutResult(
        seeds=np.asarray(seeds, np.int64),
        success=result.success,
        episode_return=episode_return,
        length=length,
        modes=env.modes(),
        path=np.stack(states, axis=1),
        tasks=tasks_of(env, seeds),
        recordings=tuple(
            Recording(
                frames=_of_episode(frames, n, num_steps[n] + 1),
                actions=_of_episode(actions, n, num_steps[n]),
                state=_of_episode(states, n, num_steps[n] + 1),
                action_noise=_of_episode(noises, n, num_steps[n]) if noises else None,
                mask=_of_episode(masks, n, num_steps[n] + 1) if masks else None,
                condition=None if condition_NK is None else condition_NK[n],
            )
            for n in range(min(num_recorded, len(seeds)))
        ),
    )


def _of_episode(steps: Sequence[np.ndarray], n: int, num_steps: int) -> np.ndarray:
    """Returns the values of the first ``num_steps`` steps of episode ``n``."""
    values = np.zeros((num_steps, *steps[0].shape[1:]), steps[0].dtype)
    for step in range(num_steps):
        values[step] = steps[step][n]
    return values


def _agent_mask(env: VectorEnv) -> np.ndarray:
    if (mask := env.agent_mask()) is None:
        raise ConfigError(f"{env.task}: its simulator cannot tell which pixels show the agent.")
    return mask
