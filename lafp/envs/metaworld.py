"""Tasks of Meta-World with scripted experts, variants with several goals, and distractors.

Needs ``pip install 'lafp[metaworld]'``.
"""

# Shape letters in this file: A true action, S state, G goals.

import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lafp.config import ConfigError
from lafp.config.ranges import check_at_least, check_positive
from lafp.data.randomness import keyed_uint64, keyed_uniform
from lafp.envs.episodes import Episode, EpisodesEnv, ExplorationConfig, Moved
from lafp.envs.mujoco.agent import agent_geoms
from lafp.envs.mujoco.distractors import DistractorConfig, Distractors
from lafp.envs.mujoco.rendering import Marker, Picture, RenderConfig, Renderer, use_offscreen_gl
from lafp.types import ActionSpec

GOAL_TASKS = ("reach-v3", "push-v3", "pick-place-v3")
"""Tasks whose success is a distance to a goal that may lie anywhere."""
FORK_RADIUS = 0.03
"""Distance to the fork, in metres, at which the demonstrator turns to its goal."""
_MARKER_RADIUS, _MARKER_COLOR = 0.04, (0.9, 0.1, 0.1, 1.0)
_OBSTACLE_COLOR = (0.1, 0.2, 0.9, 1.0)

# Purpose of a random number: the second key, after the episode's seed.
_START, _GOAL = 1, 2

Position = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class GoalsConfig:
    """Several goals that replace the task's single goal. Reaching any of them is a success.

    The demonstrator picks a goal at random. With ``fork`` it first goes to the fork, so that its
    way is the same for all goals until a late, sharp turn. A policy that averages over
    demonstrations cannot make that turn.
    """

    positions: tuple[Position, ...]
    """(x, y, z) of each goal, in metres: x to the robot's right, y away from it, z up. The table's
    top is at z = 0, and the task's own goals are near (0, 0.85)."""
    fork: Position | None = None
    """Point that the demonstrator passes on its way to any goal; null for no fork."""
    obstacle: Position | None = None
    """Center of a ball that must not be touched. Behind the fork, it makes the average of the ways
    a failure. Without it, a policy that averages may drift to either side and still arrive."""
    obstacle_radius: float = 0.05
    """Radius of the ball, in metres. If the hand, or the object that it moves, is closer to the
    center, seen from above, the episode has failed."""

    def __post_init__(self) -> None:
        check_positive(self, "obstacle_radius")
        if len(set(self.positions)) < max(2, len(self.positions)):
            raise ValueError(
                f"positions must be two or more different positions, got {self.positions}."
            )


@dataclass(frozen=True, kw_only=True)
class MetaworldConfig:
    """A task of Meta-World (Yu et al., arXiv:1910.10897), version 3."""

    name: str = "metaworld"
    task: str
    """Name of the task, e.g. ``drawer-open-v3``."""
    goals: GoalsConfig | None = None
    """Makes ``reach-v3``, ``push-v3`` or ``pick-place-v3`` multimodal."""
    size_px: int = 64
    """Height and width of a picture."""
    action_repeat: int = 1
    """Control steps (12.5 ms) per step."""
    episode_steps: int = 200
    """Number of steps after which an episode without success ends. Experts take about 50 to 100
    control steps."""
    camera: str = "corner4"
    """Name of the camera. ``behindGripper`` moves with the hand, and shows left and right most
    clearly."""
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    distractors: DistractorConfig = field(default_factory=DistractorConfig)
    """Changes of the picture that do not depend on the actions. With ``hides_floor`` a video also
    shows in place of floor and walls."""
    render: RenderConfig = field(default_factory=RenderConfig)

    def __post_init__(self) -> None:
        check_at_least(self, 1, "size_px", "action_repeat", "episode_steps")
        if self.goals is not None and self.task not in GOAL_TASKS:
            raise ValueError(
                f"goals are for {', '.join(GOAL_TASKS)}, whose success is a distance to a goal; "
                f"got task {self.task}. Leave goals out."
            )


class Metaworld(EpisodesEnv):
    """See ``VectorEnv``. With several goals there is one fork, whose mode is the reached goal.

    Raises:
        ConfigError: metaworld, the task, the camera or a graphics library is missing.
    """

    Config = MetaworldConfig
    has_success = True

    def __init__(self, cfg: MetaworldConfig) -> None:
        use_offscreen_gl()
        simulator = _load(cfg.task, 0)
        self.cfg, self.has_distractors = cfg, cfg.distractors.is_on
        self.has_return = False
        self.task = f"{cfg.task}-{len(cfg.goals.positions)}-goals" if cfg.goals else cfg.task
        self.height_px = self.width_px = cfg.size_px
        self.fps = 1 / (float(simulator.dt) * cfg.action_repeat)
        self.max_steps = cfg.episode_steps
        space = simulator.action_space
        self.action_spec = ActionSpec(
            dim=space.shape[0], low=tuple(space.low.tolist()), high=tuple(space.high.tolist())
        )
        self.mode_sizes = (len(cfg.goals.positions),) if cfg.goals else ()
        cameras = [simulator.model.camera(number).name for number in range(simulator.model.ncam)]
        if cfg.camera not in cameras:
            raise ConfigError(f"camera must be one of {', '.join(cameras)}, got {cfg.camera!r}.")
        self._camera_id = cameras.index(cfg.camera)

    def start(self, seed: int) -> Episode:
        """See ``EpisodesEnv``."""
        simulator = _load(self.cfg.task, seed)
        return _MetaworldEpisode(simulator, self.cfg, seed, self._renderer, self._camera_id)

    @functools.cached_property
    def _renderer(self) -> Renderer:
        """The renderer. It is opened with the first episode: some callers only read attributes."""
        cfg = self.cfg
        model = _load(cfg.task, 0).model
        return Renderer(
            model, cfg.size_px, cfg.size_px, cfg.render, hides_floor=cfg.distractors.hides_floor
        )


class _MetaworldEpisode(Episode):
    def __init__(
        self, simulator: Any, cfg: MetaworldConfig, seed: int, renderer: Renderer, camera_id: int
    ) -> None:
        self._simulator, self._cfg, self._seed = simulator, cfg, seed
        self._renderer, self._camera_id = renderer, camera_id
        self._script = script_of(cfg.task)
        self._distractors = Distractors(
            cfg.distractors, seed, simulator.model, cfg.size_px, cfg.size_px
        )
        self._num_steps, self._reached = 0, -1
        self._has_succeeded, self._has_crashed = False, False
        self._goals: Sequence[Position] = cfg.goals.positions if cfg.goals else ()
        self._has_turned = cfg.goals is None or cfg.goals.fork is None
        self._obs, _ = simulator.reset()
        if cfg.goals is not None:
            self._chosen = int(keyed_uniform(seed, _GOAL) * len(self._goals))
            # The task's own goal is hidden. All goals are drawn as equal markers instead.
            simulator.model.site("goal").rgba[3] = 0
            self._markers = tuple(_markers(cfg.goals))
        else:
            self._markers = ()

    def step(self, action: np.ndarray) -> Moved:
        reward = 0.0
        for _ in range(self._cfg.action_repeat):
            if not (self._has_succeeded or self._has_crashed):
                reward += self._step_once(action.astype(np.float32))
        self._num_steps += 1
        self._distractors.advance()
        self._see_fork()
        return Moved(reward=reward, has_succeeded=self._has_succeeded, has_failed=self._has_crashed)

    def _step_once(self, action: np.ndarray) -> float:
        """Runs a control step and returns its reward, with several goals the largest reward."""
        simulator = self._simulator
        self._obs, reward, _, _, info = simulator.step(action)
        outcomes = [(float(reward), bool(info["success"]))]
        if self._goals:
            outcomes = [self._outcome_at(goal, action) for goal in self._goals]
            self._reached = next((g for g, (_, is_there) in enumerate(outcomes) if is_there), -1)
        goals = self._cfg.goals
        if goals is not None and goals.obstacle is not None:
            self._has_crashed = self._distance_to(goals.obstacle) < goals.obstacle_radius
        self._has_succeeded = not self._has_crashed and any(is_there for _, is_there in outcomes)
        return max(value for value, _ in outcomes)

    def _outcome_at(self, goal: Position, action: np.ndarray) -> tuple[float, bool]:
        """Computes reward and success as if ``goal`` were the task's goal."""
        simulator = self._simulator
        simulator._target_pos = np.array(goal)
        reward, info = simulator.evaluate_state(self._obs, action)
        return float(reward), bool(info["success"])

    def _see_fork(self) -> None:
        if not self._has_turned:
            assert self._cfg.goals is not None and self._cfg.goals.fork is not None
            self._has_turned = self._distance_to(self._cfg.goals.fork) < FORK_RADIUS

    def _distance_to(self, position: Position) -> float:
        """Measures the distance of the hand, or of the object that it moves, to a position.

        The height does not count, because a held object hangs below the gripper.
        """
        moved = self._obs[:3] if self._cfg.task == "reach-v3" else self._obs[4:7]
        return float(np.linalg.norm((moved - position)[:2]))

    def frame(self) -> np.ndarray:
        simulator, distractors = self._simulator, self._distractors
        distractors.pose_camera(simulator.data, self._camera_id)
        picture = self._renderer.draw(
            simulator.model,
            simulator.data,
            self._camera_id,
            has_sky=distractors.needs_sky,
            finds_background=distractors.replaces_sky,
            markers=self._markers,
        )
        sky = picture.is_background
        return distractors.compose(
            Picture(
                pixels=self._upright(picture.pixels),
                is_background=None if sky is None else self._upright(sky),
            )
        )

    def mask(self) -> np.ndarray:
        simulator = self._simulator
        # The camera still stands where ``frame`` has put it.
        mask = self._renderer.draw_mask(
            simulator.model,
            simulator.data,
            self._camera_id,
            agent_geoms(simulator.model),
            markers=self._markers,
        )
        return self._upright(mask)

    def _upright(self, picture: np.ndarray) -> np.ndarray:
        # Some cameras of Meta-World are mounted upside down.
        is_upright = self._simulator.data.cam_xmat[self._camera_id].reshape(3, 3)[2, 1] >= 0
        return picture if is_upright else picture[::-1, ::-1]

    def expert(self) -> np.ndarray:
        obs = self._obs
        if self._cfg.goals is not None:
            fork = self._cfg.goals.fork
            goal = self._goals[self._chosen] if self._has_turned or fork is None else fork
            # The script reads the goal from the last three numbers of the observation.
            obs = np.concatenate([obs[:-3], goal])
        action = scripted_action(self._script, obs)
        return action + self._cfg.exploration.noise(self._seed, self._num_steps, len(action))

    def exploration(self) -> np.ndarray | None:
        dim = self._simulator.action_space.shape[0]
        return self._cfg.exploration.noise_of(self._seed, self._num_steps, dim)

    def state(self) -> np.ndarray:
        """Returns hand, objects and goal, now and a step ago; without the goal if several."""
        return self._obs[:-3] if self._goals else self._obs

    def modes(self) -> Sequence[int]:
        return (self._reached,) if self._goals else ()


def _load(task: str, seed: int) -> Any:
    """Loads a simulator that ``seed`` determines. It steps until its config ends the episode."""
    simulator = load_simulator(task)
    simulator.max_path_length = 1 << 30
    simulator.seed(int(keyed_uint64(seed, _START) % np.uint64(2**32)))
    return simulator


def load_simulator(task: str) -> Any:
    """Loads a ``metaworld`` environment whose state has the goal. Seed it before its reset.

    Raises:
        ConfigError: metaworld or the task is missing.
    """
    names = metaworld_sets().ALL_V3_ENVIRONMENTS
    if task not in names:
        raise ConfigError(f"task {task} is not in Meta-World. Choose one of: {', '.join(names)}.")
    simulator = names[task]()
    simulator._partially_observable = False
    # This property was cached while the goal was hidden. Its limits would clip the goal to zero.
    simulator.__dict__.pop("sawyer_observation_space", None)
    # Meta-World refuses to step before a task is set. Here the seed takes its place.
    simulator._set_task_called, simulator._freeze_rand_vec = True, False
    simulator.seeded_rand_vec = True
    return simulator


def metaworld_sets() -> Any:
    """Returns the module of Meta-World that lists its tasks.

    Raises:
        ConfigError: metaworld is not installed.
    """
    try:
        import metaworld.env_dict
    except ImportError:
        raise ConfigError(
            "This environment needs metaworld: pip install 'lafp[metaworld]'."
        ) from None
    return metaworld.env_dict


def _markers(goals: GoalsConfig) -> Iterator[Marker]:
    for goal in goals.positions:
        yield Marker(position=goal, radius=_MARKER_RADIUS, color=_MARKER_COLOR)
    if goals.obstacle is not None:
        yield Marker(position=goals.obstacle, radius=goals.obstacle_radius, color=_OBSTACLE_COLOR)


def scripted_action(script: Any, obs: np.ndarray) -> np.ndarray:
    """Asks a scripted expert for its action, in [-1, 1]; ``obs`` has the goal at its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that the environment will clip the action
        return np.clip(script.get_action(obs), -1, 1)


def script_of(task: str) -> Any:
    """Returns Meta-World's scripted expert for a task."""
    from metaworld.policies import ENV_POLICY_MAP

    scripts: Any = ENV_POLICY_MAP
    return scripts[task]()
