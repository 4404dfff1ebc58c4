"""Procgen's sixteen games: another level in every episode, discrete actions.

Needs ``pip install --no-deps procgen2 gym3 gym`` beside ``lafp[procgen]``: docs/environments.md.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lafp.config import ConfigError
from lafp.data.randomness import keyed_uniform
from lafp.envs.episodes import Episode, EpisodesEnv, Moved
from lafp.envs.impala_expert import ImpalaExpert
from lafp.types import ActionSpec

RANDOM = "random"
DIFFICULTIES = ("easy", "hard")
NUM_ACTIONS = 15
GAMES_WITH_SUCCESS = ("coinrun", "heist", "jumper", "leaper", "maze", "ninja")
"""The only reward is for the end of the level; in the others the return counts."""

_ACTION = 20  # what the random number is for: the second key, after the episode's seed


@dataclass(frozen=True, kw_only=True)
class ProcgenConfig:
    """A game of Procgen (Cobbe et al., arXiv:1912.01588), 64 x 64 px."""

    name: str = "procgen"
    task: str
    """E.g. ``maze`` or ``coinrun``."""
    difficulty: str = "easy"
    """``easy`` or ``hard``, Procgen's distribution mode."""
    expert: str = RANDOM
    """``random`` acts uniformly at random. Else a checkpoint of PPO with IMPALA's network, as
    joonleesky/train-procgen-pytorch writes them; actions are drawn from its distribution."""
    episode_steps: int = 1000

    def __post_init__(self) -> None:
        if self.difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty must be one of {DIFFICULTIES}, got {self.difficulty}.")
        if self.episode_steps < 1:
            raise ValueError(f"episode_steps must be at least 1, got {self.episode_steps}.")


class Procgen(EpisodesEnv):
    """See ``VectorEnv``. An episode's seed is its level.

    Raises:
        ConfigError: procgen2, the game or the expert is missing.
    """

    Config = ProcgenConfig
    has_distractors = False
    height_px = width_px = 64
    fps = 15.0
    mode_sizes = ()
    action_spec = ActionSpec(dim=NUM_ACTIONS, is_discrete=True)

    def __init__(self, cfg: ProcgenConfig) -> None:
        games = _load().env.ENV_NAMES
        if cfg.task not in games:
            raise ConfigError(f"task {cfg.task} is no game of Procgen: {', '.join(games)}.")
        self.cfg, self.task, self.max_steps = cfg, cfg.task, cfg.episode_steps
        self.has_success = cfg.task in GAMES_WITH_SUCCESS
        self._expert = None if cfg.expert == RANDOM else ImpalaExpert(cfg.expert, NUM_ACTIONS)

    def start(self, seed: int) -> Episode:
        """See ``EpisodesEnv``."""
        return _ProcgenEpisode(self.cfg, self._expert, seed)


class _ProcgenEpisode(Episode):
    def __init__(self, cfg: ProcgenConfig, expert: ImpalaExpert | None, seed: int) -> None:
        self._game = _load().ProcgenGym3Env(
            num=1,
            env_name=cfg.task,
            distribution_mode=cfg.difficulty,
            num_levels=1,
            start_level=seed % 2**31,
            rand_seed=0,
            num_threads=0,
        )
        self._expert, self._seed, self._num_steps = expert, seed, 0
        _, obs, _ = self._game.observe()
        self._frame = obs["rgb"][0].copy()

    def step(self, action: np.ndarray) -> Moved:
        self._game.act(np.array([action]))
        self._num_steps += 1
        reward, obs, is_first = self._game.observe()
        is_over = bool(is_first[0])
        if not is_over:  # else Procgen shows the level's beginning again; the end is never seen
            self._frame = obs["rgb"][0].copy()
        is_complete = is_over and bool(self._game.get_info()[0]["prev_level_complete"])
        return Moved(
            reward=float(reward[0]),
            has_succeeded=is_complete,
            has_failed=is_over and not is_complete,
        )

    def frame(self) -> np.ndarray:
        return self._frame

    def expert(self) -> np.ndarray:
        where = keyed_uniform(self._seed, _ACTION, self._num_steps)
        if self._expert is None:
            return np.asarray(where * NUM_ACTIONS).astype(np.int64)
        probabilities = self._expert(self._frame)
        return np.searchsorted(probabilities.cumsum()[:-1], where, side="right")

    def state(self) -> np.ndarray:
        """Nothing: Procgen tells no more than its pictures."""
        return np.zeros(0)


def _load() -> Any:
    try:
        import procgen
    except ImportError as error:
        raise ConfigError(
            f"Environment procgen needs procgen2 ({error}): pip install 'lafp[procgen]', then "
            "pip install --no-deps procgen2==0.10.7 gym3==0.3.3 gym==0.26.2, whose metadata ask "
            "for an older numpy than they need."
        ) from None
    return procgen
