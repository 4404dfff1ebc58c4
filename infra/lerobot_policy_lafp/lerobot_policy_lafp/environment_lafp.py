"""The environments of lafp as ``--env.type=lafp``, for any policy of LeRobot."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGE

import lafp.envs.gymnasium_envs  # noqa: F401, registers them with Gymnasium
from lafp.envs import ENVS

_NAMESPACE = "lerobot_policy_lafp"


@EnvConfig.register_subclass("lafp")
@dataclass
class LafpEnv(EnvConfig):
    """An environment with continuous actions. Observations are its pictures."""

    task: str | None = "Slalom-v0"
    """Name in Gymnasium, without ``lafp/``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the environment's config, e.g. ``{task: drawer-open-v3}`` for Metaworld-v0."""

    def __post_init__(self) -> None:
        env = gymnasium.make(self.gym_id, **self.gym_kwargs)
        if not isinstance(env.action_space, spaces.Box):
            raise ValueError(f"{self.task} has discrete actions; LeRobot's are continuous.")
        self.fps = env.metadata["render_fps"]
        pictures = env.observation_space["pixels"].shape
        self.features = {
            ACTION: PolicyFeature(type=FeatureType.ACTION, shape=env.action_space.shape),
            "pixels": PolicyFeature(type=FeatureType.VISUAL, shape=pictures),
        }
        self.features_map = {ACTION: ACTION, "pixels": OBS_IMAGE}
        env.close()

    @property
    def package_name(self) -> str:
        """The module that registers the environments."""
        return __name__

    @property
    def gym_id(self) -> str:
        """Name in Gymnasium of the environment with LeRobot's observations."""
        return f"{_NAMESPACE}/{self.task}"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of ``gymnasium.make``."""
        return {"render_mode": "rgb_array", **self.options}


class LerobotObservations(gymnasium.ObservationWrapper):
    """Puts the picture under the key where LeRobot looks for it, and has what LeRobot asks for."""

    def __init__(self, env: gymnasium.Env, task: str) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({"pixels": env.observation_space})
        # LeRobot writes videos at this rate, with a library that refuses a float.
        self.metadata = {**env.metadata, "render_fps": round(env.metadata["render_fps"])}
        self.task = self.task_description = task

    @property
    def _max_episode_steps(self) -> int:
        return self.env.unwrapped.max_steps

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Wraps a picture, uint8 [H, W, 3]."""
        return {"pixels": observation}


def _make(lafp_id: str, **kwargs: Any) -> gymnasium.Env:
    return LerobotObservations(gymnasium.make(lafp_id, **kwargs), lafp_id)


for _name in ENVS.names():
    _task = f"{_name.capitalize()}-v0"
    gymnasium.register(
        id=f"{_NAMESPACE}/{_task}",
        entry_point=f"{__name__}:_make",
        kwargs={"lafp_id": f"lafp/{_task}"},
    )
