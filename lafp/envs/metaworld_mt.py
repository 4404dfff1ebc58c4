"""Several tasks of Meta-World at once, by LeRobot's protocol.

The facts are those of ``src/lerobot/envs/metaworld.py`` and ``metaworld_config.json`` in
https://github.com/huggingface/lerobot at commit 7427f31801f944f5ec9ce53cda02862ce7d1638b: camera
``corner2`` moved to (0.75, 0.075, 0.7), its picture of 480 px turned by half a turn, MuJoCo's own
shadows and multisampling, 80 control steps per second, at most 500 of them, success where
Meta-World says so, which ends the episode, and a state of 4 numbers. LeRobot's ``reset(seed=k)`` of
task t is the episode with seed ``k * K + t`` here, for K tasks.

Needs ``pip install 'lafp[metaworld,data]'``.
"""

# Shape letters in this file: H height, W width, A true action, S state.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from lafp.config import ConfigError
from lafp.config.ranges import check_at_least
from lafp.envs.episodes import Episode, EpisodesEnv, ExplorationConfig, Moved
from lafp.envs.metaworld import load_simulator, metaworld_sets, script_of, scripted_action
from lafp.envs.mujoco.agent import agent_geoms
from lafp.envs.mujoco.rendering import RenderConfig, Renderer, use_offscreen_gl
from lafp.types import ActionSpec
from lafp.video.convert import Scaler

CAMERA, CAMERA_POSITION = "corner2", (0.75, 0.075, 0.7)
RENDER_PX = 480
MAX_STEPS = 500
STATE_DIM = 4
"""Position of the hand (x, y, z, in metres) and opening of the gripper (0 to 1)."""

# LeRobot's difficulties. Its ``easy`` has all others of MT50.
_HARDER = {
    "medium": (
        "basketball-v3 bin-picking-v3 box-close-v3 coffee-pull-v3 coffee-push-v3 hammer-v3 "
        "peg-insert-side-v3 push-wall-v3 soccer-v3 sweep-v3 sweep-into-v3"
    ),
    "hard": ("assembly-v3 hand-insert-v3 pick-out-of-hole-v3 pick-place-v3 push-v3 push-back-v3"),
    "very_hard": ("shelf-place-v3 disassemble-v3 stick-pull-v3 stick-push-v3 pick-place-wall-v3"),
}


@dataclass(frozen=True, kw_only=True)
class MetaworldMtConfig:
    """Tasks of Meta-World (Yu et al., arXiv:1910.10897), version 3, as LeRobot evaluates them."""

    name: str = "metaworld_mt"
    tasks: tuple[str, ...]
    """Tasks, e.g. ``drawer-open-v3``, and sets of tasks: ``mt10``, ``mt25``, ``mt50``, or
    LeRobot's ``easy``, ``medium``, ``hard``, ``very_hard``. All get the same number of episodes."""
    size_px: int = RENDER_PX
    """Height and width of a picture. It is drawn with 480 px, as in LeRobot, and scaled down as
    ``preprocess`` scales videos (area averaging)."""
    episode_steps: int = MAX_STEPS
    """Number of steps after which an episode without success ends."""
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    render: RenderConfig = field(
        default_factory=lambda: RenderConfig(shadows=True, reflections=True, multisampling=True)
    )
    """Effects of drawing. LeRobot has all of them on; a CPU draws faster without them."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "size_px", "episode_steps")
        if not self.tasks:
            raise ValueError("tasks must name one task or more, e.g. [mt10].")


class MetaworldMt(EpisodesEnv):
    """See ``VectorEnv``. Episode s plays task s % K, K tasks in the order of ``tasks``.

    Raises:
        ConfigError: metaworld, a task or a graphics library is missing.
    """

    Config = MetaworldMtConfig
    has_success = True
    has_distractors = has_return = False
    fps = 80.0
    mode_sizes = ()
    action_spec = ActionSpec(dim=4, low=(-1.0,) * 4, high=(1.0,) * 4)

    def __init__(self, cfg: MetaworldMtConfig) -> None:
        use_offscreen_gl()
        self.cfg = cfg
        self.tasks = _names(cfg.tasks)
        self.task = f"metaworld-{'+'.join(cfg.tasks)}"
        self.height_px = self.width_px = cfg.size_px
        self.max_steps = cfg.episode_steps
        # Tasks have meshes of their own, so each needs a renderer. Episodes hold it: with 50 tasks,
        # all renderers at a time would take gigabytes.
        self._renderers: WeakValueDictionary[str, Renderer] = WeakValueDictionary()
        self._scaler = Scaler(cfg.size_px, cfg.size_px)

    def start(self, seed: int) -> Episode:
        """See ``EpisodesEnv``."""
        seed_of_task, number = divmod(seed, len(self.tasks))
        task = self.tasks[number]
        simulator = load_simulator(task)
        simulator.model.camera(CAMERA).pos = CAMERA_POSITION
        # LeRobot resets once before it seeds, and a reset may leave something behind.
        simulator.seed(0)
        simulator.reset()
        simulator.seed(seed_of_task)
        renderer = self._renderers.get(task)
        if renderer is None:
            px = RENDER_PX
            renderer = Renderer(simulator.model, px, px, self.cfg.render, hides_floor=False)
            self._renderers[task] = renderer
        return _Episode(simulator, task, self.cfg, seed, renderer, self._scaler)


class _Episode(Episode):
    def __init__(
        self,
        simulator: Any,
        task: str,
        cfg: MetaworldMtConfig,
        seed: int,
        renderer: Renderer,
        scaler: Scaler,
    ) -> None:
        self._simulator, self._cfg, self._seed = simulator, cfg, seed
        self._renderer, self._scaler = renderer, scaler
        self._camera_id = int(simulator.model.camera(CAMERA).id)
        self._script = script_of(task)
        self._num_steps = 0
        self._obs, _ = simulator.reset()

    def step(self, action: np.ndarray) -> Moved:
        self._obs, reward, _, _, info = self._simulator.step(action.astype(np.float32))
        self._num_steps += 1
        return Moved(reward=float(reward), has_succeeded=bool(info["success"]))

    def frame(self) -> np.ndarray:
        simulator = self._simulator
        picture = self._renderer.draw(simulator.model, simulator.data, self._camera_id)
        return self._shown(picture.pixels)

    def mask(self) -> np.ndarray:
        model, data = self._simulator.model, self._simulator.data
        mask_HW = self._renderer.draw_mask(model, data, self._camera_id, agent_geoms(model))
        white_HW3 = np.repeat(np.where(mask_HW, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
        return self._shown(white_HW3)[..., 0] >= 128

    def _shown(self, picture: np.ndarray) -> np.ndarray:
        """Turns a picture by half a turn, because this camera is upside down, and scales it."""
        return self._scaler(picture[::-1, ::-1])

    def expert(self) -> np.ndarray:
        action = scripted_action(self._script, self._obs)
        return action + self._cfg.exploration.noise(self._seed, self._num_steps, len(action))

    def exploration(self) -> np.ndarray | None:
        dim = self._simulator.action_space.shape[0]
        return self._cfg.exploration.noise_of(self._seed, self._num_steps, dim)

    def state(self) -> np.ndarray:
        """Returns position of the hand and opening of the gripper, LeRobot's ``agent_pos``."""
        return self._obs[:STATE_DIM]


def _names(asked: Sequence[str]) -> tuple[str, ...]:
    """Replaces sets of tasks by their tasks."""
    names = tuple(_expanded(asked))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"tasks name these more than once: {', '.join(twice)}.")
    return names


def _expanded(asked: Sequence[str]) -> Iterator[str]:
    lists = metaworld_sets()
    harder = {name: tuple(tasks.split()) for name, tasks in _HARDER.items()}
    all_harder = {task for tasks in harder.values() for task in tasks}
    sets = {
        "mt10": tuple(lists.MT10_V3),
        "mt25": tuple(lists.MT25_V3),
        "mt50": tuple(lists.MT50_V3),
        "easy": tuple(task for task in lists.MT50_V3 if task not in all_harder),
        **harder,
    }
    for name in asked:
        if name not in sets and name not in lists.ALL_V3_ENVIRONMENTS:
            raise ConfigError(
                f"tasks: {name} is not in Meta-World. Name a set ({', '.join(sets)}) or one of: "
                f"{', '.join(lists.ALL_V3_ENVIRONMENTS)}."
            )
        yield from sets.get(name, (name,))
