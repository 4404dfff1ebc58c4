"""The three distractors of the Distracting Control Suite (Stone et al., arXiv:2101.02722).

Each distractor has a strength, where 0 is off. The paper's easy, medium and hard are 0.1, 0.2 and
0.3 for camera and colours. Ranges and speeds per shown step are the paper's. Our deviations: the
camera's random walk is in angles instead of space, and the ground is either opaque or hidden, never
half transparent.
"""

# Shape letters in this file: H height, W width, G groups of geoms of one colour.

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lafp.config.ranges import check_at_least
from lafp.data.randomness import keyed_normal, keyed_uniform
from lafp.envs.mujoco.background_videos import Background, VideoSplit, cache_of_process, videos_of
from lafp.envs.mujoco.rendering import Picture

# Purpose of a random number: the second key of every draw, after the episode's seed. The draws of
# the background use the number of the video as second key.
_CAMERA_START, _CAMERA_VELOCITY, _CAMERA_WALK, _COLOR_START, _COLOR_WALK = range(101, 106)

# The camera's azimuth, elevation, roll and distance: largest angles at strength 1, largest speed
# per step as a share of the range, and standard deviation of the change of speed.
_MAX_ANGLES = np.full(3, math.pi / 2)
_MAX_VELOCITY = np.array([0.064, 0.064, 0.04, 0.1])
_VELOCITY_STD = np.array([0.016, 0.016, 0.0067, 0.025])
_MAX_ZOOM_IN, _MAX_ZOOM_OUT = 0.5, 1.5
_COLOR_STEP_STD = 0.03


@dataclass(frozen=True, kw_only=True)
class DistractorConfig:
    """Changes of the picture that do not depend on the actions. All are off by default."""

    background: float = 0.0
    """Opacity of a video that replaces the sky, 0 to 1."""
    camera: float = 0.0
    """Range of the camera's motion, 0 to 1: at 1, ±90° in all directions and up to 2.5 times the
    distance."""
    color: float = 0.0
    """Largest change of all colours, 0 to 1."""
    videos: str | None = None
    """Folder of videos for the background, searched at any depth."""
    video_split: VideoSplit = "train"
    """Part of the videos to use, chosen by hash of the file: three of four are ``train``. Evaluate
    with ``test``."""
    num_videos: int | None = None
    """Number of videos of that part to use; null uses all. A smaller number takes some of those
    that a larger one takes (the Distracting Control Suite and LAOM: 60)."""
    video_hold_steps: int | None = None
    """Number of steps after which another video begins; null keeps one for the episode, as LAOM
    does. If clips are cut at the same steps, each clip has its own background, so that the
    background tells which clip it is."""
    hides_floor: bool = False
    """Show the background in place of the ground too. The paper keeps the ground of cheetah and
    walker."""
    cache_bytes: int = 1 << 28
    """Memory for decoded videos in each process."""

    def __post_init__(self) -> None:
        for name in ("background", "camera", "color"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}.")
        if self.background > 0 and self.videos is None:
            raise ValueError("background needs a folder of videos. Set videos, or background=0.")
        check_at_least(self, 2, "video_hold_steps")
        check_at_least(self, 1, "num_videos", "cache_bytes")

    @property
    def is_on(self) -> bool:
        """Whether any distractor is on."""
        return max(self.background, self.camera, self.color) > 0


class Distractors:
    """The distractors of one episode. They change the picture, but never the simulation.

    Args:
        cfg: Strengths of the distractors.
        seed: Seed of the episode.
        model: The episode's own ``mujoco.MjModel``, whose colours are changed in place.
        height_px: Height of a picture.
        width_px: Width of a picture.
    """

    def __init__(
        self, cfg: DistractorConfig, seed: int, model: Any, height_px: int, width_px: int
    ) -> None:
        self.cfg, self._seed, self._model = cfg, seed, model
        self._step = 0
        self._camera_x = 2 * keyed_uniform(seed, _CAMERA_START, np.arange(4)) - 1
        start = 2 * keyed_uniform(seed, _CAMERA_VELOCITY, np.arange(4)) - 1
        self._camera_velocity = start * _MAX_VELOCITY
        self._size_px = (height_px, width_px)
        self._background: Background | None = None
        if cfg.background > 0:
            assert cfg.videos is not None
            self._background = Background(
                videos_of(cfg.videos, cfg.video_split, cfg.num_videos),
                cache_of_process(height_px, width_px, cfg.cache_bytes),
                seed,
                cfg.video_hold_steps,
            )
        # Only geoms without a material, because a geom's own colour would hide its material's.
        self._is_plain = model.geom_matid < 0
        self._own_G3 = np.concatenate([model.mat_rgba[:, :3], model.geom_rgba[self._is_plain, :3]])
        colors = np.arange(len(self._own_G3))[:, None]
        offset_G3 = 2 * keyed_uniform(seed, _COLOR_START, colors, np.arange(3)) - 1
        self._offset_G3 = cfg.color * offset_G3
        self._paint()

    @property
    def needs_sky(self) -> bool:
        """Whether any of the sky will be visible."""
        return self.cfg.background < 1

    @property
    def replaces_sky(self) -> bool:
        """Whether ``compose`` needs to know which pixels show the sky."""
        return self._background is not None

    def advance(self) -> None:
        """Advances the distractors by one step."""
        self._step += 1
        if self.cfg.camera > 0:
            walk = _VELOCITY_STD * keyed_normal(self._seed, _CAMERA_WALK, self._step, np.arange(4))
            velocity = np.clip(self._camera_velocity + walk, -_MAX_VELOCITY, _MAX_VELOCITY)
            moved = np.clip(self._camera_x + velocity, -1, 1)
            self._camera_x, self._camera_velocity = moved, moved - self._camera_x
        if self.cfg.color > 0:
            colors = np.arange(len(self._own_G3))[:, None]
            walk_G3 = keyed_normal(self._seed, _COLOR_WALK, self._step, colors, np.arange(3))
            limit = self.cfg.color
            moved_G3 = self._offset_G3 + limit * _COLOR_STEP_STD * walk_G3
            self._offset_G3 = np.clip(moved_G3, -limit, limit)
            self._paint()

    def pose_camera(self, data: Any, camera_id: int) -> None:
        """Moves the camera in ``data`` around the agent. The next simulation step resets it."""
        if self.cfg.camera == 0:
            return
        position, axes_33 = data.cam_xpos[camera_id], data.cam_xmat[camera_id].reshape(3, 3)
        distance = np.linalg.norm(position - data.subtree_com[1])
        target = position - distance * axes_33[:, 2]
        azimuth, elevation, roll = self.cfg.camera * _MAX_ANGLES * self._camera_x[:3]
        own = math.asin(np.clip(axes_33[2, 2], -1, 1))
        if own >= -1e-6:  # stays above the ground
            elevation = np.clip(own + elevation, 0, math.pi / 2) - own
        turned_33 = _rotation(2, azimuth) @ axes_33 @ _rotation(0, -elevation) @ _rotation(2, roll)
        zoom = self.cfg.camera * self._camera_x[3]
        distance *= 1 + zoom * (_MAX_ZOOM_OUT if zoom > 0 else _MAX_ZOOM_IN)
        data.cam_xpos[camera_id] = target + distance * turned_33[:, 2]
        data.cam_xmat[camera_id] = turned_33.ravel()

    def compose(self, picture: Picture) -> np.ndarray:
        """Draws the background behind a picture, uint8 [H, W, 3]."""
        if self._background is None:
            return picture.pixels
        assert picture.is_background is not None
        video = self._background.frame(self._step, *self._size_px)
        if self.cfg.background < 1:
            sky, share = picture.pixels.astype(np.float32), self.cfg.background
            video = np.rint(sky + share * (video - sky)).astype(np.uint8)
        return np.where(picture.is_background[..., None], video, picture.pixels)

    def _paint(self) -> None:
        if self.cfg.color > 0:
            painted_G3 = np.clip(self._own_G3 + self._offset_G3, 0, 1)
            num_materials = len(self._model.mat_rgba)
            self._model.mat_rgba[:, :3] = painted_G3[:num_materials]
            self._model.geom_rgba[self._is_plain, :3] = painted_G3[num_materials:]


def _rotation(axis: int, angle: float) -> np.ndarray:
    """Returns the matrix of a counter-clockwise rotation about x (0), y (1) or z (2)."""
    cos, sin = math.cos(angle), math.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = cos
    matrix[i, j], matrix[j, i] = -sin, sin
    return matrix
