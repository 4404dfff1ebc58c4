"""Tasks of the DeepMind Control Suite, with distractors. Needs ``pip install 'lafp[dmc]'``."""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.data.randomness import keyed_uint64
from lafp.envs.episodes import Episode, EpisodesEnv, ExplorationConfig, Moved
from lafp.envs.experts.ppo import PpoExpert
from lafp.envs.mujoco.agent import agent_geoms
from lafp.envs.mujoco.distractors import DistractorConfig, Distractors
from lafp.envs.mujoco.rendering import RenderConfig, Renderer, use_offscreen_gl
from lafp.types import ActionSpec

# Purpose of a random number: the second key, after the episode's seed.
_START = 1


@dataclass(frozen=True, kw_only=True)
class DmcConfig:
    """A task of the DeepMind Control Suite (Tassa et al., arXiv:1801.00690)."""

    name: str = "dmc"
    task: str
    """Domain and task, e.g. ``cheetah-run``."""
    expert: str
    """Checkpoint of the demonstrator, a ``.pt`` file in the format of dunnolab/laom."""
    size_px: int = 64
    """Height and width of a picture."""
    action_repeat: int = 1
    """Simulation steps per step. The experts were trained with 1."""
    episode_steps: int | None = None
    """Ends episodes earlier than the task does, which is after 1000 simulation steps."""
    camera: int = 0
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    distractors: DistractorConfig = field(default_factory=DistractorConfig)
    render: RenderConfig = field(default_factory=RenderConfig)

    def __post_init__(self) -> None:
        if not all(self.task.partition("-")):
            raise ValueError(f"task must be domain-task, e.g. cheetah-run, got {self.task!r}.")
        check_at_least(self, 1, "size_px", "action_repeat", "episode_steps")


class Dmc(EpisodesEnv):
    """See ``VectorEnv``. The outcome of an episode is its return; there is no success.

    Raises:
        ConfigError: dm_control, the task, the expert, the videos or a graphics library is missing.
    """

    Config = DmcConfig
    has_success = False
    mode_sizes = ()

    def __init__(self, cfg: DmcConfig) -> None:
        use_offscreen_gl()
        simulator = _load(cfg.task, 0)
        self.cfg, self.task = cfg, cfg.task
        self.has_distractors, self.has_return = cfg.distractors.is_on, True
        self.height_px = self.width_px = cfg.size_px
        self.fps = 1 / (simulator.control_timestep() * cfg.action_repeat)
        if math.isinf(limit := simulator._step_limit) and cfg.episode_steps is None:
            raise ConfigError(f"{cfg.task} has no time limit: set env.episode_steps.")
        # The limit may be infinite here, which ``round`` refuses.
        steps = round(min(limit, 1e9)) // cfg.action_repeat
        self.max_steps = min(steps, cfg.episode_steps or steps)
        spec = simulator.action_spec()
        self.action_spec = ActionSpec(
            dim=spec.shape[0], low=tuple(spec.minimum), high=tuple(spec.maximum)
        )
        self._expert = PpoExpert(cfg.expert)
        obs_dim = len(flat(simulator.reset().observation))
        expected, found = (obs_dim, spec.shape[0]), (self._expert.obs_dim, self._expert.action_dim)
        if expected != found:
            raise ConfigError(
                f"expert: {cfg.expert} maps {found[0]} observations to {found[1]} actions, "
                f"{cfg.task} has {expected[0]} and {expected[1]}. Name the task's own expert."
            )
        if not 0 <= cfg.camera < simulator.physics.model.ncam:
            num_cameras = simulator.physics.model.ncam
            raise ConfigError(
                f"camera must be from 0 to {num_cameras - 1}, because {cfg.task} has {num_cameras} "
                f"cameras, got {cfg.camera}."
            )

    def start(self, seed: int) -> Episode:
        """See ``EpisodesEnv``."""
        return _DmcEpisode(_load(self.cfg.task, seed), self.cfg, seed, self._renderer, self._expert)

    @functools.cached_property
    def _renderer(self) -> Renderer:
        """The renderer. It is opened with the first episode: some callers only read attributes."""
        cfg = self.cfg
        model = _load(cfg.task, 0).physics.model.ptr
        return Renderer(
            model, cfg.size_px, cfg.size_px, cfg.render, hides_floor=cfg.distractors.hides_floor
        )


class _DmcEpisode(Episode):
    def __init__(
        self,
        simulator: Any,
        cfg: DmcConfig,
        seed: int,
        renderer: Renderer,
        expert: PpoExpert,
    ) -> None:
        self._simulator, self._cfg, self._seed = simulator, cfg, seed
        self._renderer, self._expert = renderer, expert
        self._state = flat(simulator.reset().observation)
        self._num_steps = 0
        self._distractors = Distractors(
            cfg.distractors, seed, simulator.physics.model.ptr, cfg.size_px, cfg.size_px
        )

    def step(self, action: np.ndarray) -> Moved:
        reward = 0.0
        for _ in range(self._cfg.action_repeat):
            time_step = self._simulator.step(action)
            reward += time_step.reward
        self._state = flat(time_step.observation)
        self._num_steps += 1
        self._distractors.advance()
        return Moved(reward=reward)

    def frame(self) -> np.ndarray:
        physics, distractors = self._simulator.physics, self._distractors
        distractors.pose_camera(physics.data, self._cfg.camera)
        picture = self._renderer.draw(
            physics.model.ptr,
            physics.data.ptr,
            self._cfg.camera,
            has_sky=distractors.needs_sky,
            finds_background=distractors.replaces_sky,
        )
        return distractors.compose(picture)

    def mask(self) -> np.ndarray:
        physics = self._simulator.physics
        # The camera still stands where ``frame`` has put it.
        return self._renderer.draw_mask(
            physics.model.ptr,
            physics.data.ptr,
            self._cfg.camera,
            agent_geoms(physics.model.ptr),
        )

    def expert(self) -> np.ndarray:
        spec = self._simulator.action_spec()
        # The network's means lie far outside the bounds, where noise would have no effect.
        action = np.clip(self._expert(self._state), spec.minimum, spec.maximum)
        return action + self._cfg.exploration.noise(self._seed, self._num_steps, len(action))

    def exploration(self) -> np.ndarray | None:
        dim = self._simulator.action_spec().shape[0]
        return self._cfg.exploration.noise_of(self._seed, self._num_steps, dim)

    def state(self) -> np.ndarray:
        return self._state


def flat(observation: Any) -> np.ndarray:
    """Concatenates the parts of an observation in the order of their names, float64 [S]."""
    return np.concatenate([np.ravel(observation[name]) for name in sorted(observation)])


def _load(task: str, seed: int) -> Any:
    """Loads a ``dm_control`` environment whose random numbers come from ``seed``."""
    try:
        from dm_control import suite
    except ImportError:
        raise ConfigError(
            "Environment dmc needs dm_control: pip install 'lafp[dmc]' (Python 3.11 or 3.12)."
        ) from None
    domain, _, name = task.partition("-")
    if (domain, name) not in suite.ALL_TASKS:
        tasks = ", ".join("-".join(pair) for pair in suite.ALL_TASKS)
        raise ConfigError(f"task {task} is not in the suite. Choose one of: {tasks}.")
    random = int(keyed_uint64(seed, _START) % np.uint64(2**32))
    return suite.load(domain, name, task_kwargs={"random": random})
