"""Slalom: the agent passes two pillars on the centre line on either side. Drawn with numpy.

The demonstrators are multimodal and the forks are late and sharp, so a policy that averages over
modes hits the pillar. The task was made to contain such forks: it demonstrates a mechanism and
proves nothing about other tasks.

Positions are (x, y) in the unit square; x runs right, y runs down the image.
"""

# Shape suffixes in this file: N episodes, P pillars, D distractors, H height, W width, K patch
# side, C channels.

import math
from dataclasses import dataclass

import numpy as np

from lafp.config.ranges import check_at_least
from lafp.data.randomness import keyed_normal, keyed_uniform
from lafp.envs.base import StepResult
from lafp.types import ActionSpec

SIZE_PX = 48
MAX_STEPS = 34
STEP_LENGTH = 0.05
GOAL_X, GOAL_HALF_HEIGHT = 0.93, 0.3
START_X, START_X_JITTER, START_Y, START_Y_JITTER = 0.06, 0.02, 0.5, 0.01

PILLARS_P2 = np.array([[0.26, 0.5], [0.78, 0.5]])
PILLAR_RADIUS, FAIL_RADIUS = 0.05, 0.07
AGENT_RADIUS, CORE_RADIUS = 0.06, 0.025
WHITE, ORANGE, RED, GREEN = (255, 255, 255), (255, 140, 0), (200, 50, 50), (40, 180, 70)
STRIPE_X = 0.95
BACKGROUND = 40

# With more jitter, a policy that averages over demonstrations succeeds too, and the task would no
# longer tell methods apart.
EXPERT_JITTER, SIDE_OFFSET = 0.01, 0.17

NUM_DISTRACTORS, DISTRACTOR_RADIUS = 3, 0.05
DISTRACTOR_SPEED, DISTRACTOR_NOISE = 0.03, 0.01
WAVE_HEIGHT, WAVE_NUMBERS, WAVE_FREQUENCY = 25, (5, 15), 0.5

# Purpose of a random number: the second key of every draw, after the episode's seed.
_START, _SIDE, _JITTER, _ACTION_NOISE = 1, 2, 3, 4
_DISC_POSITION, _DISC_COLOR, _DISC_HEADING, _DISC_NOISE, _WAVE = 5, 6, 7, 8, 9


@dataclass(frozen=True, kw_only=True)
class SlalomConfig:
    """The embedded multimodal environment, 48 x 48 px."""

    name: str = "slalom"
    distractors: bool = False
    """Draw moving discs of random colour, and a moving pattern as background."""
    expert_noise: float = 0.09
    """Standard deviation of the noise in the expert's actions, in [0, inf). With more than the
    default, a policy that averages over demonstrations fails less, and the task tells methods less
    apart."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "expert_noise")


class Slalom:
    """See ``VectorEnv``. Each pillar is a fork: mode 0 passes above it (y < 0.5), 1 below."""

    Config = SlalomConfig
    task = "slalom"
    tasks: tuple[str, ...] = ()
    height_px = width_px = SIZE_PX
    fps = 10.0
    max_steps = MAX_STEPS
    action_spec = ActionSpec(dim=2, low=(-1.0, -1.0), high=(1.0, 1.0))
    mode_sizes = (2, 2)
    has_return = False

    def __init__(self, cfg: SlalomConfig) -> None:
        self.has_distractors = cfg.distractors
        self._expert_noise = cfg.expert_noise

    def reset(self, seeds: np.ndarray) -> np.ndarray:
        """See ``VectorEnv``."""
        seed_N1 = np.asarray(seeds, np.int64)[:, None]
        if seed_N1.size and seed_N1.min() < 0:
            raise ValueError(f"Seeds must not be negative, got {seed_N1.min()}.")
        self._seed_N1 = seed_N1
        num = len(seed_N1)
        jitter_N2 = _symmetric(seed_N1, _START, np.arange(2)) * [START_X_JITTER, START_Y_JITTER]
        self._position_N2 = np.array([START_X, START_Y]) + jitter_N2
        pillars = np.arange(len(PILLARS_P2))
        self._expert_side_NP = keyed_uniform(seed_N1, _SIDE, pillars) < 0.5
        self._expert_jitter_NP = EXPERT_JITTER * _symmetric(seed_N1, _JITTER, pillars)
        self._mode_NP = np.full((num, len(PILLARS_P2)), -1, np.int64)
        self._num_steps_N = np.zeros(num, np.int64)
        self._terminated_N = np.zeros(num, bool)
        self._success_N = np.zeros(num, bool)
        if self.has_distractors:
            self._reset_distractors()
        self._obs_NHWC = self._draw()
        return self._obs_NHWC

    def step(self, actions: np.ndarray) -> StepResult:
        """See ``VectorEnv``. An action longer than 1 is shortened to 1; walls stop the agent."""
        actions_N2 = _clip_norm(np.asarray(actions, np.float64))
        if actions_N2.shape != self._position_N2.shape:
            raise ValueError(
                f"Expected actions of shape {self._position_N2.shape}, got {actions_N2.shape}."
            )
        active_N = ~(self._terminated_N | (self._num_steps_N >= MAX_STEPS))
        before_N2 = self._position_N2
        moved_N2 = np.clip(before_N2 + STEP_LENGTH * actions_N2, 0, 1)
        self._position_N2 = np.where(active_N[:, None], moved_N2, before_N2)
        self._num_steps_N = self._num_steps_N + active_N
        if self.has_distractors:
            self._move_distractors(active_N)
        self._record_modes(before_N2)
        succeeded_N = self._judge(active_N)
        self._obs_NHWC = np.where(active_N[:, None, None, None], self._draw(), self._obs_NHWC)
        return StepResult(
            obs=self._obs_NHWC,
            reward=succeeded_N.astype(np.float32),
            terminated=self._terminated_N.copy(),
            truncated=~self._terminated_N & (self._num_steps_N >= MAX_STEPS),
            success=self._success_N.copy(),
        )

    def expert(self) -> np.ndarray:
        """See ``VectorEnv``. The expert heads for a pillar and swerves late, to a random side."""
        noise_N2 = keyed_normal(
            self._seed_N1, _ACTION_NOISE, self._num_steps_N[:, None], np.arange(2)
        )
        action_N2 = self._expert_mean() + self._expert_noise * noise_N2
        return _clip_norm(action_N2).astype(np.float32)

    def expert_noise(self) -> np.ndarray:
        """See ``VectorEnv``."""
        return self.expert() - _clip_norm(self._expert_mean()).astype(np.float32)

    def agent_mask(self) -> np.ndarray:
        """See ``VectorEnv``."""
        canvas_NHWC = np.zeros((len(self._position_N2), SIZE_PX, SIZE_PX, 3), np.float32)
        _draw_discs(canvas_NHWC, self._position_N2, AGENT_RADIUS, np.array(WHITE))
        return canvas_NHWC[..., 0] >= 128

    def _expert_mean(self) -> np.ndarray:
        """Returns the expert's actions without noise, not clipped, float64 [N, 2]."""
        target_N2 = np.full_like(self._position_N2, 0.5)
        target_N2[:, 0] = 1.05
        x_N = self._position_N2[:, 0]
        side_NP = np.where(self._expert_side_NP, SIDE_OFFSET, -SIDE_OFFSET)
        for p in reversed(range(len(PILLARS_P2))):
            pillar_x, pillar_y = PILLARS_P2[p]
            swerve = np.stack([np.full_like(x_N, pillar_x + 0.01), pillar_y + side_NP[:, p]], -1)
            head_on = np.stack(
                [np.full_like(x_N, pillar_x - 0.12), pillar_y + self._expert_jitter_NP[:, p]], -1
            )
            target_N2 = np.where((x_N < pillar_x)[:, None], swerve, target_N2)
            target_N2 = np.where((x_N < pillar_x - 0.13)[:, None], head_on, target_N2)
        to_target_N2 = target_N2 - self._position_N2
        distance_N1 = np.linalg.norm(to_target_N2, axis=1, keepdims=True)
        return to_target_N2 / np.maximum(distance_N1, STEP_LENGTH)

    def state(self) -> np.ndarray:
        """The agent's (x, y), float32 [N, 2]."""
        return self._position_N2.astype(np.float32)

    def modes(self) -> np.ndarray:
        """See ``VectorEnv``: the side on which each pillar was passed, int64 [N, 2]."""
        return self._mode_NP.copy()

    def _judge(self, active_N: np.ndarray) -> np.ndarray:
        """Ends episodes; returns which of them succeeded in this step."""
        offset_NP2 = self._position_N2[:, None] - PILLARS_P2
        hit_N = (np.linalg.norm(offset_NP2, axis=-1) < FAIL_RADIUS).any(axis=1)
        x_N, y_N = self._position_N2.T
        at_goal_N = (x_N > GOAL_X) & (np.abs(y_N - 0.5) < GOAL_HALF_HEIGHT)
        succeeded_N = active_N & at_goal_N & ~hit_N
        self._success_N = self._success_N | succeeded_N
        self._terminated_N = self._terminated_N | (active_N & (hit_N | at_goal_N))
        return succeeded_N

    def _record_modes(self, before_N2: np.ndarray) -> None:
        for p, (pillar_x, pillar_y) in enumerate(PILLARS_P2):
            passes_N = (before_N2[:, 0] < pillar_x) & (self._position_N2[:, 0] >= pillar_x)
            side_N = (self._position_N2[:, 1] >= pillar_y).astype(np.int64)
            self._mode_NP[:, p] = np.where(passes_N, side_N, self._mode_NP[:, p])

    def _reset_distractors(self) -> None:
        seed_N11, discs_D1 = self._seed_N1[..., None], np.arange(NUM_DISTRACTORS)[:, None]
        self._disc_ND2 = keyed_uniform(seed_N11, _DISC_POSITION, discs_D1, np.arange(2))
        self._disc_color_NDC = 40 + 160 * keyed_uniform(
            seed_N11, _DISC_COLOR, discs_D1, np.arange(3)
        )
        heading_ND = 2 * np.pi * keyed_uniform(self._seed_N1, _DISC_HEADING, discs_D1[:, 0])
        self._disc_velocity_ND2 = DISTRACTOR_SPEED * np.stack(
            [np.cos(heading_ND), np.sin(heading_ND)], -1
        )
        draws_N6 = keyed_uniform(self._seed_N1, _WAVE, np.arange(6))
        low, high = WAVE_NUMBERS
        self._wave_number_N2 = low + (high - low) * draws_N6[:, :2]
        self._wave_frequency_N1 = WAVE_FREQUENCY * (2 * draws_N6[:, 2:3] - 1)
        self._wave_phase_NC = 2 * np.pi * draws_N6[:, 3:]

    def _move_distractors(self, active_N: np.ndarray) -> None:
        noise_ND2 = keyed_normal(
            self._seed_N1[..., None],
            _DISC_NOISE,
            self._num_steps_N[:, None, None],
            np.arange(NUM_DISTRACTORS)[:, None],
            np.arange(2),
        )
        moved_ND2 = self._disc_ND2 + self._disc_velocity_ND2 + DISTRACTOR_NOISE * noise_ND2
        outside_ND2 = active_N[:, None, None] & ((moved_ND2 < 0) | (moved_ND2 > 1))
        self._disc_velocity_ND2 = np.where(
            outside_ND2, -self._disc_velocity_ND2, self._disc_velocity_ND2
        )
        # Reflects positions at 0 and at 1.
        moved_ND2 = 1 - np.abs(1 - np.abs(moved_ND2))
        self._disc_ND2 = np.where(active_N[:, None, None], moved_ND2, self._disc_ND2)

    # -----------------------------------------------------------------------------------------
    # Drawing

    def _draw(self) -> np.ndarray:
        num = len(self._position_N2)
        canvas_NHWC = np.full((num, SIZE_PX, SIZE_PX, 3), BACKGROUND, np.float32)
        if self.has_distractors:
            canvas_NHWC += self._waves()
        stripe_start_px = math.floor(STRIPE_X * SIZE_PX)
        cover = stripe_start_px + 1 - STRIPE_X * SIZE_PX  # share of the stripe's first column
        first_NHC = canvas_NHWC[:, :, stripe_start_px]
        first_NHC += cover * (np.array(GREEN, np.float32) - first_NHC)
        canvas_NHWC[:, :, stripe_start_px + 1 :] = GREEN
        if self.has_distractors:
            for d in range(NUM_DISTRACTORS):
                center_N2, color_NC = self._disc_ND2[:, d], self._disc_color_NDC[:, d]
                _draw_discs(canvas_NHWC, center_N2, DISTRACTOR_RADIUS, color_NC)
        for pillar in PILLARS_P2:
            _draw_discs(canvas_NHWC, np.tile(pillar, (num, 1)), PILLAR_RADIUS, np.array(RED))
        _draw_discs(canvas_NHWC, self._position_N2, AGENT_RADIUS, np.array(WHITE))
        _draw_discs(canvas_NHWC, self._position_N2, CORE_RADIUS, np.array(ORANGE))
        return np.rint(canvas_NHWC).astype(np.uint8)

    def _waves(self) -> np.ndarray:
        """Draws 25 sin(k_x x + k_y y + phase_c + omega step), float32 [N, H, W, C]."""
        grid = (np.arange(SIZE_PX) + 0.5) / SIZE_PX
        phase_NC = self._wave_phase_NC + self._wave_frequency_N1 * self._num_steps_N[:, None]
        across_N1W1 = (self._wave_number_N2[:, :1] * grid)[:, None, :, None]
        down_NH1C = (self._wave_number_N2[:, 1:] * grid)[:, :, None, None] + phase_NC[:, None, None]
        # sin(a + b) from sines of the rows and of the columns: cheaper than one sine per pixel.
        sin_a, cos_a = np.sin(across_N1W1).astype(np.float32), np.cos(across_N1W1).astype("f4")
        sin_b, cos_b = np.sin(down_NH1C).astype(np.float32), np.cos(down_NH1C).astype("f4")
        return WAVE_HEIGHT * (sin_a * cos_b + cos_a * sin_b)


def _draw_discs(
    canvas_NHWC: np.ndarray, center_N2: np.ndarray, radius: float, color: np.ndarray
) -> None:
    """Blends one antialiased disc into each image, in place, and only computes pixels near it.

    Args:
        canvas_NHWC: float32, 0..255.
        center_N2: (x, y) in the unit square.
        radius: Radius as a share of the square's side.
        color: [3], or [N, 3].
    """
    num, height, width, _ = canvas_NHWC.shape
    radius_px = radius * width
    reach = math.ceil(radius_px) + 1
    center_px_N2 = center_N2 * [width, height] - 0.5
    offsets_K = np.arange(-reach, reach + 1)
    columns_NK = np.rint(center_px_N2[:, :1]).astype(np.int64) + offsets_K
    rows_NK = np.rint(center_px_N2[:, 1:]).astype(np.int64) + offsets_K
    dx_NK, dy_NK = columns_NK - center_px_N2[:, :1], rows_NK - center_px_N2[:, 1:]
    distance_NKK = np.hypot(dy_NK[:, :, None], dx_NK[:, None, :])
    cover_NKK = np.clip(radius_px - distance_NKK + 0.5, 0, 1)
    is_inside_NKK = ((rows_NK >= 0) & (rows_NK < height))[:, :, None] & (
        (columns_NK >= 0) & (columns_NK < width)
    )[:, None, :]
    n, i, j = np.nonzero(is_inside_NKK & (cover_NKK > 0))
    row, column = rows_NK[n, i], columns_NK[n, j]
    cover_1 = cover_NKK[n, i, j].astype(np.float32)[:, None]
    color_NC = np.broadcast_to(color, (num, 3)).astype(np.float32)
    pixels = canvas_NHWC[n, row, column]
    canvas_NHWC[n, row, column] = pixels + cover_1 * (color_NC[n] - pixels)


def _symmetric(*keys: int | np.ndarray) -> np.ndarray:
    """Draws uniformly from [-1, 1)."""
    return 2 * keyed_uniform(*keys) - 1


def _clip_norm(actions_NA: np.ndarray) -> np.ndarray:
    """Shortens vectors longer than 1 to length 1."""
    return actions_NA / np.maximum(np.linalg.norm(actions_NA, axis=1, keepdims=True), 1)
