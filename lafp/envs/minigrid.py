"""BabyAI's grid worlds, with discrete actions and BabyAI's scripted bot.

Needs ``pip install 'lafp[minigrid]'``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.envs.episodes import Episode, EpisodesEnv, Moved
from lafp.types import ActionSpec


@dataclass(frozen=True, kw_only=True)
class MinigridConfig:
    """A level of BabyAI (Chevalier-Boisvert et al., arXiv:1810.08272), seen from above."""

    name: str = "minigrid"
    task: str
    """Name of the level, e.g. ``BabyAI-GoToRedBallNoDists-v0``. Pictures do not show the mission.
    Choose a level whose mission is always the same, or a policy has to guess it."""
    tile_px: int = 8
    """Side of a field."""
    episode_steps: int = 64

    def __post_init__(self) -> None:
        check_at_least(self, 1, "tile_px", "episode_steps")


class Minigrid(EpisodesEnv):
    """See ``VectorEnv``.

    Raises:
        ConfigError: minigrid or the level is missing.
    """

    Config = MinigridConfig
    has_success = True
    has_distractors = has_return = False
    fps = 10.0
    mode_sizes = ()

    def __init__(self, cfg: MinigridConfig) -> None:
        level = _load(cfg.task)
        self.cfg, self.task, self.max_steps = cfg, cfg.task, cfg.episode_steps
        self.height_px, self.width_px = level.height * cfg.tile_px, level.width * cfg.tile_px
        self.action_spec = ActionSpec(dim=int(level.action_space.n), is_discrete=True)

    def start(self, seed: int) -> Episode:
        """See ``EpisodesEnv``."""
        return _MinigridEpisode(_load(self.cfg.task), self.cfg, seed)


class _MinigridEpisode(Episode):
    def __init__(self, level: Any, cfg: MinigridConfig, seed: int) -> None:
        self._level, self._tile_px = level, cfg.tile_px
        level.reset(seed=seed)
        level.max_steps = cfg.episode_steps
        self._bot: Any = None
        self._last_action: int | None = None
        self._planned: int | None = None

    def step(self, action: np.ndarray) -> Moved:
        if self._planned is None:
            self._bot = None  # the bot did not choose this step, so its plan is outdated
        self._last_action, self._planned = int(action), None
        _, reward, is_over, _, _ = self._level.step(self._last_action)
        return Moved(
            reward=float(reward), has_succeeded=reward > 0, has_failed=is_over and reward <= 0
        )

    def frame(self) -> np.ndarray:
        return self._level.get_frame(highlight=False, tile_size=self._tile_px, agent_pov=False)

    def expert(self) -> np.ndarray:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        if self._planned is None:
            if self._bot is None:
                self._bot, self._last_action = BabyAIBot(self._level), None
            self._planned = int(self._bot.replan(self._last_action))
        return np.array(self._planned)

    def state(self) -> np.ndarray:
        """Returns the agent's field (x, y) and direction, 0 to 3 clockwise from right."""
        return np.array([*self._level.agent_pos, self._level.agent_dir], np.float64)


def _load(task: str) -> Any:
    try:
        import gymnasium
        import minigrid  # noqa: F401, registers the levels
    except ImportError:
        raise ConfigError(
            "Environment minigrid needs minigrid: pip install 'lafp[minigrid]'."
        ) from None
    if task not in gymnasium.registry or not task.startswith("BabyAI-"):
        raise ConfigError(
            f"task {task} is not a level of BabyAI, whose bot demonstrates. Choose one of "
            "https://minigrid.farama.org/environments/babyai, e.g. BabyAI-GoToRedBallNoDists-v0."
        )
    level: Any = gymnasium.make(task).unwrapped
    level.reset(seed=0)
    return level
