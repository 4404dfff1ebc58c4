"""Labels of episodes, and the rows of them that belong to the frames of a clip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.preprocess.action_statistics import label_sums
from data_pipelines.preprocess.clip.labels.flawed import SAME_S, Flaw, flawed_spans, not_finite
from data_pipelines.preprocess.clip.resample import JITTER
from data_pipelines.preprocess.rows import LabelSums
from lafp.data.shards.format import Labels
from lafp.video.decoders.base import DamagedSpan, VideoError, VideoInfo

ASSUMED_FPS = 5.0
# Steps of a clock that counts seconds.
_SHORTEST_S, _LONGEST_S = 1e-3, 10.0
_WAY_OUT = (
    "labels.time_key names the array of time stamps; labels.time_key=null goes without: row t is "
    "then of frame t"
)


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Where actions and states are. The format of the source is found by its content.

    - LeRobot datasets (v2.0, v2.1, v3.0): a folder with ``meta/info.json``.
    - RLDS: ``*.tfrecord*`` files.
    - HDF5 (``.hdf5``, ``.h5``) as laom, robomimic (``data/demo_0/obs/...``) or ALOHA
      (``observations/images/...``) have it.
    - ``x.mp4`` takes its labels from ``x.npz``: ``action`` [T, A] (discrete: integer [T]), one row
      per frame, row t acting between frames t and t+1; or, with ``timestamp`` [T], rows at any
      rate. An ``.npz`` without a video holds the frames too: uint8 [T, H, W, 3] and ``action``
      [T, A], or several episodes, [N, T, H, W, 3] and [N, T, A]. Optional in both: ``action_low``
      and ``action_high`` [A], the bounds of the action space.

    One row per frame: a clip's row t is that of the frame it shows. Rows of another rate are
    aligned by time: the latest row that is not later (zero-order hold).
    """

    action_key: str | None = None
    """null takes the format's own name: `action`, in HDF5 `actions`."""
    action_parts: tuple[str, ...] = ()
    """Where the action lies in several arrays: their names; they are joined in this order, e.g.
    `[action/world_vector, action/rotation_delta, action/gripper_closedness_action]`."""
    state_key: str | None = None
    """Optional array [T, S]; kept where it is there. null takes the format's own name: `state`,
    in LeRobot `observation.state`, in RLDS `observation/state`, in HDF5 `states`."""
    state_parts: tuple[str, ...] = ()
    """Where the state lies in several arrays: their names, like `action_parts`."""
    condition_key: str = "condition"
    """Optional array of ``.npz`` files, [G], in stacked episodes [N, G]: one vector per episode
    that says what it is to do (a one-hot task id, the embedding of a text or of a goal image)."""
    time_key: str | None = "timestamp"
    """Optional array [T] of seconds: when each row comes into force. null goes without, as if there
    were none. LeRobot's row t is frame t; its time stamps only check that."""
    frames_key: str | None = None
    """Frames in an ``.npz``: null takes `image_0`. In HDF5 null takes every array of pictures."""
    fps: float | None = None
    """Rate of frames in ``.npz``, RLDS and HDF5, which have no time stamps. null takes what the
    file says, and 5 where it says nothing; the summary then has that under `assumed`."""
    max_array_bytes: int = 4 * 2**30
    """Largest array of stacked episodes: it is in memory while its episodes are cut."""

    def __post_init__(self) -> None:
        if (self.fps is not None and self.fps <= 0) or self.max_array_bytes <= 0:
            raise ValueError(
                f"fps and max_array_bytes must be positive, got {self.fps} and "
                f"{self.max_array_bytes}."
            )
        for key in ("action", "state"):
            if getattr(self, f"{key}_key") and getattr(self, f"{key}_parts"):
                raise ValueError(f"give {key}_key or {key}_parts, not both.")

    def rate(self, fps_of_file: float | None = None) -> "Rate":
        """The rate of episodes without time stamps.

        Args:
            fps_of_file: What the file says of it.
        """
        fps = self.fps or fps_of_file
        return Rate(fps or ASSUMED_FPS, is_assumed=fps is None)

    def action_names(self, default: str) -> tuple[str, ...]:
        """The arrays that make the action; ``default`` is the format's own."""
        return self.action_parts or (self.action_key or default,)

    def state_names(self, default: str) -> tuple[str, ...]:
        """The arrays that make the state."""
        return self.state_parts or (self.state_key or default,)


@dataclass(frozen=True)
class Rate:
    """Frames per second."""

    fps: float
    is_assumed: bool
    """Whether nobody says it."""


@dataclass(frozen=True, kw_only=True)
class EpisodeLabels:
    """Labels of one whole episode."""

    action: np.ndarray
    """float32 [T, A], or int64 [T] when discrete."""
    state: np.ndarray | None
    """float32 [T, S]."""
    low: np.ndarray | None
    """float32 [A]: bounds of the action space, where the file gives them."""
    high: np.ndarray | None
    times_s: np.ndarray | None = None
    """float64 [T], ascending: when each row comes into force, the video's first frame at 0. None:
    row t belongs to frame t (``align`` fills it in)."""
    is_per_frame: bool = False
    """Whether row t belongs to frame t, and ``times_s`` are those of the frames."""
    condition: np.ndarray | None = None
    """float32 [G], of the whole episode."""
    flaws: tuple[Flaw, ...] = ()
    """Rows that cannot be used."""
    name: str = ""
    """What messages call the episode; empty where the video's URI says it."""

    def of_clip(self, start_s: float, fps: float, shown_s: np.ndarray) -> Labels:
        """The rows of a clip's frames. Needs times.

        Where rows belong to frames, these are those of the frames that the clip shows. Else they
        are those in force at its times; a row that begins up to a quarter of a step late still
        counts, as ``resample`` has it for frames.

        Args:
            start_s: Where the clip begins.
            fps: Of the clip.
            shown_s: float64 [T]: when each of its frames began in the video.
        """
        assert self.times_s is not None
        if self.is_per_frame:
            at_s, tolerance_s = shown_s, SAME_S
        else:
            at_s = start_s + np.arange(len(shown_s)) / fps
            tolerance_s = JITTER * min(_step_s(self.times_s), 1 / fps)
        rows = np.searchsorted(self.times_s - tolerance_s, at_s, side="right") - 1
        rows = rows.clip(min=0)
        state = None if self.state is None else self.state[rows]
        return Labels(true_action=self.action[rows], state=state, condition=self.condition)

    def sums(self, labels: Labels) -> LabelSums:
        """What one clip adds to the statistics; its last row belongs to no pair."""
        assert labels.true_action is not None
        sums = label_sums(labels.true_action[:-1], self.low, self.high)
        return replace(
            sums,
            num_state=0 if labels.state is None else labels.state.shape[1],
            num_condition=0 if labels.condition is None else len(labels.condition),
        )

    def flawed_spans(self, info: VideoInfo) -> list[DamagedSpan]:
        """When the frames of flawed rows are shown. Needs times."""
        assert self.times_s is not None
        return flawed_spans(self.name, self.flaws, self.times_s, info)


def align(labels: EpisodeLabels, info: VideoInfo) -> EpisodeLabels:
    """Checks that the labels cover the video, and gives every row its time.

    Raises:
        VideoError: ``labels_mismatch``: rows would have to be invented.
    """
    if labels.times_s is None:
        num_frames, num_rows = len(info.times_s), len(labels.action)
        if num_frames != num_rows:
            detail = f"{num_frames} frames, {num_rows} rows of labels"
            raise VideoError("labels_mismatch", detail)
        return replace(labels, times_s=info.times_s, is_per_frame=True)
    # A row may come late, or end early, by the slower one's step: both clocks are sampled.
    start_s, end_s = float(labels.times_s[0]), labels.times_s[-1] + _step_s(labels.times_s)
    slack_s = 1.01 * max(_step_s(labels.times_s), 1 / info.fps)
    if start_s > slack_s or abs(end_s - info.duration_s) > slack_s:
        span = f"labels from {start_s:.3f} to {end_s:.3f} s"
        raise VideoError(
            "labels_mismatch",
            f"{span}, the video ends at {info.duration_s:.3f} s. {_WAY_OUT}",
        )
    # One row per frame that lies beside it all along: clocks that differ a little, or jitter.
    if len(labels.times_s) == len(info.times_s):
        off_s = np.abs(labels.times_s - info.times_s).max()
        if off_s <= slack_s:
            return replace(labels, times_s=info.times_s, is_per_frame=True)
    return labels


def _step_s(times_s: np.ndarray) -> float:
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else float("inf")


def episode_labels(
    action: np.ndarray, state: np.ndarray | None, times_s: np.ndarray | None
) -> EpisodeLabels:
    """Checks one episode's arrays, in whatever types a format has them.

    Raises:
        VideoError: ``no_labels``.
    """
    for name, rows in (("actions", action), ("states", state), ("time stamps", times_s)):
        if rows is not None and rows.dtype.kind not in "fiub":
            raise VideoError("no_labels", f"{name} must be numbers, got {rows.dtype}")
    if np.issubdtype(action.dtype, np.integer) and action.ndim == 1:
        action = action.astype(np.int64)
    elif action.ndim != 2 or not action.size:
        raise VideoError("no_labels", f"actions must be [T, A], got {list(action.shape)}")
    else:
        action = action.astype(np.float32)
    if state is not None and state.ndim not in (1, 2):
        raise VideoError("no_labels", f"states must be [T, S], got {list(state.shape)}")
    for name, rows in (("states", state), ("time stamps", times_s)):
        if rows is not None and (rows.ndim < 1 or len(rows) != len(action)):
            raise VideoError("no_labels", f"{list(rows.shape)} {name}, {len(action)} actions")
    flaws = not_finite("action", action)
    if state is not None:
        state = state.reshape(len(state), -1).astype(np.float32)
        flaws += not_finite("state", state)
    return EpisodeLabels(
        action=action,
        state=state,
        low=None,
        high=None,
        times_s=None if times_s is None else _ascending(times_s),
        flaws=tuple(flaws),
    )


def _ascending(times_s: np.ndarray) -> np.ndarray:
    times_s = times_s.astype(np.float64)
    if times_s.ndim != 1 or not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
        raise VideoError("no_labels", f"time stamps must be finite and ascend. {_WAY_OUT}")
    return times_s


def joined(names: Sequence[str], pick: Callable[[str], np.ndarray | None]) -> np.ndarray | None:
    """Several arrays side by side, in the order of their names; None where one is not there.

    Args:
        names: One or several.
        pick: Name -> [T] or [T, ...], or None.

    Raises:
        VideoError: ``labels_mismatch``: their rows differ in number.
    """
    parts = [pick(name) for name in names]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    if len(found) == 1:
        return found[0]
    if len({part.shape[:1] for part in found}) > 1:
        listed = ", ".join(f"{n} {list(p.shape)}" for n, p in zip(names, found, strict=True))
        raise VideoError("labels_mismatch", f"arrays of one length each are joined, not {listed}")
    return np.concatenate([part.reshape(len(part), -1) for part in found], axis=1)


def rows_beside_frames(
    action: np.ndarray, state: np.ndarray | None, times_s: np.ndarray | None, num_frames: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Rows of an episode whose frames lie in the same file: row t is frame t, if the numbers agree.

    Where there is one frame more, no action follows the last frame. The row before is repeated
    for it; no pair of frames uses that.

    Returns:
        Action, state, and time stamps, None where they are not needed.
    """
    if action.ndim < 1 or not num_frames - 1 <= len(action) <= num_frames or not len(action):
        return action, state, times_s
    if state is not None and state.ndim and 0 < len(state) == num_frames - 1:
        state = np.concatenate([state, state[-1:]])
    return np.concatenate([action, action[-1:]])[:num_frames], state, None


def own_fps(times_s: np.ndarray | None) -> float | None:
    """The rate that an episode's time stamps show, if they are seconds of a clock."""
    if times_s is None or times_s.ndim != 1 or len(times_s) < 2 or times_s.dtype.kind not in "fiu":
        return None
    step_s = float(np.median(np.diff(times_s.astype(np.float64))))
    return 1 / step_s if _SHORTEST_S <= step_s <= _LONGEST_S else None
