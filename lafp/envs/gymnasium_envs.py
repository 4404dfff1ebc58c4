"""Registers the environments with Gymnasium, when this module is imported.

>>> import gymnasium
>>> import lafp.envs.gymnasium_envs
>>> env = gymnasium.make("lafp/Slalom-v0", distractors=True)

Keyword arguments are the fields of the environment's config. An environment that lacks its
simulator says so when it is made. Needs ``pip install 'lafp[gymnasium]'``.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from lafp.config import config_from_dict
from lafp.envs import ENVS
from lafp.envs.base import VectorEnv, tasks_of
from lafp.types import ActionSpec

_MAX_SEED = 2**31


class GymnasiumEnv(gymnasium.Env[np.ndarray, Any]):
    """One episode at a time of an environment, as Gymnasium defines it.

    Observations are pictures, uint8 [H, W, 3]. ``info["is_success"]`` says whether the task is
    solved, where it defines success, and ``info["task"]`` which of several tasks the episode plays.
    ``reset(seed=s)`` starts the episode that has the seed s in lafp; without a seed, the next
    episode is drawn from the seed before.

    Args:
        name: Name in ``ENVS``.
        render_mode: ``rgb_array`` lets ``render`` return the last observation.
        **config: Fields of the environment's config.

    Raises:
        ConfigError: A field is wrong, or the simulator is missing.
    """

    # Gymnasium reads the modes from the class, before there is an environment.
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012, its own type

    def __init__(self, name: str, render_mode: str | None = None, **config: Any) -> None:
        env = ENVS.build(config_from_dict(ENVS.get(name).Config, {"name": name, **config}))
        self._env: VectorEnv = env
        self.metadata = {**self.metadata, "render_fps": env.fps}
        self.max_steps = env.max_steps
        self.render_mode = render_mode
        shape = (env.height_px, env.width_px, 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = _action_space(env.action_spec)
        self._obs = np.zeros(shape, np.uint8)
        self._task: dict[str, str] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode. ``options`` are not used."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(_MAX_SEED)) if seed is None else seed
        self._obs = self._env.reset(np.array([drawn]))[0].copy()
        tasks = tasks_of(self._env, np.array([drawn]))
        self._task = {"task": tasks[0]} if tasks else {}
        return self._obs, dict(self._task)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advances by one step."""
        result = self._env.step(np.asarray(action)[None])
        self._obs = result.obs[0].copy()
        info: dict[str, Any] = dict(self._task)
        info |= {} if result.success is None else {"is_success": bool(result.success[0])}
        terminated, truncated = bool(result.terminated[0]), bool(result.truncated[0])
        return self._obs, float(result.reward[0]), terminated, truncated, info

    def render(self) -> Any:
        """Returns the last observation in render mode ``rgb_array``, else None."""
        return self._obs.copy() if self.render_mode == "rgb_array" else None


def _action_space(spec: ActionSpec) -> spaces.Space[Any]:
    if spec.is_discrete:
        return spaces.Discrete(spec.dim)
    low, high = np.array(spec.low, np.float32), np.array(spec.high, np.float32)
    return spaces.Box(low, high, dtype=np.float32)


for _name in ENVS.names():
    gymnasium.register(
        id=f"lafp/{_name.capitalize()}-v0",
        entry_point="lafp.envs.gymnasium_envs:GymnasiumEnv",
        kwargs={"name": _name},
    )
