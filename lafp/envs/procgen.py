"""Procgen's sixteen games, with discrete actions and a new level in every episode.

Needs ``pip install --no-deps procgen2 gym3 gym`` beside ``lafp[procgen]``: docs/environments.md.
"""

# Shape letters in this file: N episodes, H height, W width, C channels, A actions.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.data.randomness import keyed_uniform
from lafp.envs.base import StepResult
from lafp.envs.experts.impala import ImpalaExpert
from lafp.envs.experts.procgen_bigfish import plan_bigfish
from lafp.envs.experts.procgen_planners import (
    STAND,
    MinerPlanner,
    Planner,
    plan_heist,
    plan_maze,
)
from lafp.envs.experts.procgen_search import ChaserPlanner, LeaperPlanner
from lafp.envs.experts.procgen_state import read_state, with_level
from lafp.types import ActionSpec

RANDOM, PLANNER = "random", "planner"
DIFFICULTIES = ("easy", "hard")
NUM_ACTIONS = 15
MAX_RETURN = {
    "bigfish": 40.0,
    "bossfight": 13.0,
    "caveflyer": 12.0,
    "chaser": 13.0,
    "climber": 12.6,
    "coinrun": 10.0,
    "dodgeball": 19.0,
    "fruitbot": 32.4,
    "heist": 10.0,
    "jumper": 10.0,
    "leaper": 10.0,
    "maze": 10.0,
    "miner": 13.0,
    "ninja": 10.0,
    "plunder": 30.0,
    "starpilot": 64.0,
}
"""The largest return of each game in easy mode (Cobbe et al., arXiv:1912.01588, appendix C)."""
PLANNERS: dict[str, Callable[[str], Planner]] = {
    "bigfish": lambda _: plan_bigfish,
    "chaser": ChaserPlanner,
    "heist": lambda _: plan_heist,
    "leaper": LeaperPlanner,
    "maze": lambda _: plan_maze,
    "miner": lambda _: MinerPlanner(),
}
"""Game -> factory of its planner, which gets the difficulty."""
_RESET = -1  # Procgen's action that begins an episode anew
# Returns are sums of float32 rewards, which may end just below the maximum.
_ROUNDING = 1e-3
_ACTION = 20  # purpose of a random number: the second key, after the episode's seed


@dataclass(frozen=True, kw_only=True)
class ProcgenConfig:
    """A game of Procgen (Cobbe et al., arXiv:1912.01588), 64 x 64 px."""

    name: str = "procgen"
    task: str
    """Name of the game, e.g. ``maze`` or ``coinrun``."""
    difficulty: str = "easy"
    """``easy`` or ``hard``, Procgen's distribution mode."""
    expert: str = RANDOM
    """``random`` acts uniformly at random. ``planner`` plans on the game's internal state (bigfish,
    chaser, heist, leaper, maze, miner). Any other value is the path of a PPO checkpoint with
    IMPALA's network, in the format of joonleesky/train-procgen-pytorch or
    facebookresearch/level-replay; actions are drawn from its distribution."""
    levels: Literal["train", "test"] = "train"
    """Half of all levels that episodes are drawn from. No level is in both halves."""
    episode_steps: int = 1000

    def __post_init__(self) -> None:
        if self.difficulty not in DIFFICULTIES:
            raise ValueError(
                f"difficulty must be one of {', '.join(DIFFICULTIES)}, got {self.difficulty!r}."
            )
        check_at_least(self, 1, "episode_steps")


class Procgen:
    """See ``VectorEnv``. An episode's seed chooses its level. One native environment runs all.

    An episode has succeeded when its return reaches the game's maximum (``MAX_RETURN``), which is
    published for easy mode. In hard mode only the return counts.

    Raises:
        ConfigError: procgen2, the game or the expert is missing.
    """

    Config = ProcgenConfig
    has_distractors, has_return = False, True
    height_px = width_px = 64
    fps = 15.0
    mode_sizes = ()
    tasks: tuple[str, ...] = ()
    action_spec = ActionSpec(dim=NUM_ACTIONS, is_discrete=True)

    def __init__(self, cfg: ProcgenConfig) -> None:
        games = _load().env.ENV_NAMES
        if cfg.task not in games:
            raise ConfigError(
                f"task {cfg.task} is not a game of Procgen. Choose one of: {', '.join(games)}."
            )
        if cfg.expert == PLANNER and cfg.task not in PLANNERS:
            raise ConfigError(
                f"expert: no planner knows {cfg.task}, only {', '.join(PLANNERS)}. Name a PPO "
                "checkpoint, or random."
            )
        self.cfg, self.task, self.max_steps = cfg, cfg.task, cfg.episode_steps
        self._max_return = MAX_RETURN[cfg.task] if cfg.difficulty == "easy" else None
        is_file = cfg.expert not in (RANDOM, PLANNER)
        self._network = ImpalaExpert(cfg.expert, NUM_ACTIONS) if is_file else None
        self._plan = PLANNERS[cfg.task](cfg.difficulty) if cfg.expert == PLANNER else None
        self._game: Any = None

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """See ``VectorEnv``."""
        seeds_N = np.asarray(seeds, np.int64)
        if seeds_N.size and seeds_N.min() < 0:
            raise ValueError(f"Seeds must not be negative, got {seeds_N.min()}.")
        if self._game is None or self._game.num != len(seeds_N):
            self._game = _load().ProcgenGym3Env(
                num=len(seeds_N),
                env_name=self.cfg.task,
                distribution_mode=self.cfg.difficulty,
                num_levels=1,
                start_level=0,
                rand_seed=0,
                num_threads=0,
            )
            # Some games keep data beyond an episode's end, so every episode starts from this state.
            self._untouched = self._game.callmethod("get_state")[0]
            # cffi looks a function up once, under a lock. A game closes when it is deleted, and if
            # the garbage collector did that amid another look-up, it would wait for itself.
            _ = self._game._c_lib.libenv_close
        # Even levels are for training and odd ones for tests, so no level is in both.
        # Procgen keeps the number after the last level in an int32 too, hence the last level.
        levels_N = np.minimum(seeds_N % 2**30, 2**30 - 2) * 2 + (self.cfg.levels == "test")
        states = [with_level(self._untouched, int(level)) for level in levels_N]
        self._game.callmethod("set_state", states)
        self._game.act(np.full(len(seeds_N), _RESET, np.int32))
        _, seen, _ = self._game.observe()
        self._seeds_N, self._num_steps = seeds_N, 0
        self._return_N = np.zeros(len(seeds_N), np.float32)
        self._is_over_N = np.zeros(len(seeds_N), bool)
        self._obs_NHWC = seen["rgb"].copy()
        return self._obs_NHWC

    def step(self, actions: np.ndarray) -> StepResult:
        """See ``VectorEnv``."""
        actions_N = np.asarray(actions)
        if actions_N.shape != self._seeds_N.shape:
            expected = self._seeds_N.shape
            raise ValueError(f"Expected actions of shape {expected}, got {actions_N.shape}.")
        is_active_N = ~self._is_over_N & (self._num_steps < self.max_steps)
        actions_N = np.where(is_active_N, actions_N.clip(0, NUM_ACTIONS - 1), STAND)
        self._game.act(actions_N.astype(np.int32))
        self._num_steps += 1
        reward_N, seen, is_first_N = self._game.observe()
        reward_N = np.where(is_active_N, reward_N, 0).astype(np.float32)
        self._return_N += reward_N
        self._is_over_N |= is_active_N & is_first_N
        # After an episode's end Procgen shows the next one's first frame, but never the last frame.
        is_old_N = ~is_active_N | is_first_N
        obs_NHWC = seen["rgb"]
        obs_NHWC[is_old_N] = self._obs_NHWC[is_old_N]
        self._obs_NHWC = obs_NHWC
        success_N = None
        if self._max_return is not None:
            success_N = self._return_N >= self._max_return - _ROUNDING
        return StepResult(
            obs=self._obs_NHWC,
            reward=reward_N,
            terminated=self._is_over_N.copy(),
            truncated=~self._is_over_N & (self._num_steps >= self.max_steps),
            success=success_N,
            shows_end=False,
        )

    def expert(self) -> np.ndarray:
        """See ``VectorEnv``."""
        if self._plan is not None:
            return self._planned()
        where_N = keyed_uniform(self._seeds_N, _ACTION, self._num_steps)
        if self._network is None:
            return (where_N * NUM_ACTIONS).astype(np.int64)
        cumulative_NA = self._network(self._obs_NHWC).cumsum(1)[:, :-1]
        return (where_N[:, None] >= cumulative_NA).sum(1)

    def expert_noise(self) -> None:
        """See ``VectorEnv``."""
        return

    def agent_mask(self) -> None:
        """See ``VectorEnv``."""
        return

    def _planned(self) -> np.ndarray:
        assert self._plan is not None
        actions_N = np.full(len(self._seeds_N), STAND, np.int64)
        states = self._game.callmethod("get_state")
        for n in np.flatnonzero(~self._is_over_N):
            state = read_state(states[n])
            actions_N[n] = self._plan(state, int(self._seeds_N[n]), self._num_steps)
        return actions_N

    def state(self) -> np.ndarray:
        """Returns an empty state, float32 [N, 0], since the pictures show all that counts."""
        return np.zeros((len(self._seeds_N), 0), np.float32)

    def modes(self) -> np.ndarray:
        """Returns no modes, int64 [N, 0], because forks are not tracked."""
        return np.zeros((len(self._seeds_N), 0), np.int64)


def _load() -> Any:
    try:
        import procgen
    except ImportError as error:
        raise ConfigError(
            f"Environment procgen needs procgen2 ({error}): pip install 'lafp[procgen]', then "
            "pip install --no-deps procgen2==0.10.7 gym3==0.3.3 gym==0.26.2. --no-deps is needed, "
            "because their metadata require an older numpy than the code does."
        ) from None
    return procgen
