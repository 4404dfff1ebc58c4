"""Defines the labels of episodes and picks the rows that belong to a clip's frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipelines.preprocess.action_statistics import label_sums
from data_pipelines.preprocess.clip.labels.flawed import SAME_S, Flaw, flawed_spans, in_float32
from data_pipelines.preprocess.clip.resample import JITTER
from data_pipelines.preprocess.rows import LabelSums
from lafp.data.shards.format import Labels
from lafp.video.decoders.base import DamagedSpan, VideoError, VideoInfo

ASSUMED_FPS = 5.0
# Plausible steps of a clock that counts in seconds.
_SHORTEST_S, _LONGEST_S = 1e-3, 10.0
_MAX_CHOICES = 2**16
_WAY_OUT = (
    "labels.time_key names the array of time stamps; labels.time_key=null ignores it: row t then "
    "belongs to frame t"
)


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Says where actions and states lie. The format of the source is detected from its content.

    - LeRobot datasets (v2.0, v2.1, v3.0): a folder with ``meta/info.json``.
    - RLDS: ``*.tfrecord*`` files.
    - HDF5 (``.hdf5``, ``.h5``) in the layouts of laom, robomimic (``data/demo_0/obs/...``) and
      ALOHA (``observations/images/...``).
    - ``x.mp4`` with labels in ``x.npz``: ``action`` [T, A] (discrete: integer [T]), one row per
      frame, row t acting between frames t and t+1; or, with ``timestamp`` [T], rows at any rate. An
      ``.npz`` without a video holds the frames too: uint8 [T, H, W, 3] and ``action`` [T, A], or
      several episodes, [N, T, H, W, 3] and [N, T, A]. Optional in both: ``action_low`` and
      ``action_high`` [A], the bounds of the action space.

    With one row per frame, a clip's row t belongs to the frame that it shows. Rows at another rate
    are aligned by time: the latest row that is not later than the frame (zero-order hold).
    """

    action_key: str | None = None
    """null takes the format's own name: `action`, in HDF5 `actions`."""
    action_parts: tuple[str, ...] = ()
    """Names of several arrays that are joined in this order to make the action, e.g.
    `[action/world_vector, action/rotation_delta, action/gripper_closedness_action]`."""
    state_key: str | None = None
    """Optional array [T, S], stored if it exists. null takes the format's own name: `state`, in
    LeRobot `observation.state`, in RLDS `observation/state`, in HDF5 `states`."""
    state_parts: tuple[str, ...] = ()
    """Names of several arrays that are joined to make the state, like `action_parts`."""
    condition_key: str = "condition"
    """Optional array of ``.npz`` files, [G], or [N, G] for stacked episodes: one vector per episode
    that describes its task (a one-hot task id, the embedding of a text or of a goal image)."""
    time_key: str | None = "timestamp"
    """Optional array [T] of seconds: when each row comes into force. null ignores time stamps. In
    LeRobot, row t always belongs to frame t; its time stamps only check that."""
    frames_key: str | None = None
    """Array of the frames. null takes `image_0` in an ``.npz``, and every array of pictures in
    HDF5."""
    fps: float | None = None
    """Rate of frames in ``.npz``, RLDS and HDF5, which have no time stamps. null takes the rate in
    the file, and 5 if it has none; the summary then lists that under `assumed`."""
    max_array_bytes: int = 4 * 2**30
    """Largest array of stacked episodes, which is in memory while its episodes are cut."""

    def __post_init__(self) -> None:
        if (self.fps is not None and self.fps <= 0) or self.max_array_bytes <= 0:
            raise ValueError(
                f"fps and max_array_bytes must be positive, got {self.fps} and "
                f"{self.max_array_bytes}."
            )
        for key in ("action", "state"):
            if getattr(self, f"{key}_key") and getattr(self, f"{key}_parts"):
                raise ValueError(
                    f"{key}_key and {key}_parts are both set, but only one may be. Leave one out."
                )

    def rate(self, fps_of_file: float | None = None) -> "Rate":
        """Returns the rate of episodes without time stamps.

        Args:
            fps_of_file: The rate given in the file, if any.
        """
        fps = self.fps or fps_of_file
        return Rate(fps or ASSUMED_FPS, is_assumed=fps is None)

    def action_names(self, default: str) -> tuple[str, ...]:
        """Returns the arrays that make the action; ``default`` is the format's own."""
        return self.action_parts or (self.action_key or default,)

    def state_names(self, default: str) -> tuple[str, ...]:
        """Returns the arrays that make the state; ``default`` is the format's own."""
        return self.state_parts or (self.state_key or default,)


@dataclass(frozen=True)
class Rate:
    """Frames per second."""

    fps: float
    is_assumed: bool
    """Whether the rate is a default because neither the file nor the config gives one."""


@dataclass(frozen=True, kw_only=True)
class EpisodeLabels:
    """Holds the labels of one whole episode."""

    action: np.ndarray
    """float32 [T, A], or int64 [T] when discrete."""
    state: np.ndarray | None
    """float32 [T, S]."""
    low: np.ndarray | None
    """float32 [A]: bounds of the action space, where the file gives them."""
    high: np.ndarray | None
    times_s: np.ndarray | None = None
    """float64 [T], ascending: when each row comes into force, where 0 is the video's first frame.
    None: row t belongs to frame t (``align`` fills the times in)."""
    is_per_frame: bool = False
    """Whether row t belongs to frame t, so that ``times_s`` are the times of the frames."""
    condition: np.ndarray | None = None
    """float32 [G], for the whole episode."""
    action_noise: np.ndarray | None = None
    """float32 [T, A]: the part of the actions that is a demonstrator's exploration noise."""
    flaws: tuple[Flaw, ...] = ()
    """Rows that cannot be used."""
    name: str = ""
    """Name of the episode in messages; empty if the video's URI identifies it."""

    def of_clip(self, start_s: float, fps: float, shown_s: np.ndarray) -> Labels:
        """Returns the rows of a clip's frames. Needs ``times_s``.

        If rows belong to frames, it returns the rows of the frames that the clip shows. Otherwise
        it returns the rows in force at the clip's times, where a row may begin up to a quarter of a
        step late, like frames in ``resample``.

        Args:
            start_s: Time at which the clip begins.
            fps: Rate of the clip.
            shown_s: float64 [T]: when each of its frames begins in the video.
        """
        assert self.times_s is not None
        if self.is_per_frame:
            at_s, tolerance_s = shown_s, SAME_S
        else:
            at_s = start_s + np.arange(len(shown_s)) / fps
            tolerance_s = JITTER * min(_step_s(self.times_s), 1 / fps)
        rows = np.searchsorted(self.times_s - tolerance_s, at_s, side="right") - 1
        # Labels may begin up to a step late (`align`). The first row stands for the frames before
        # it.
        rows = rows.clip(min=0)
        state = None if self.state is None else self.state[rows]
        noise = None if self.action_noise is None else self.action_noise[rows]
        return Labels(
            true_action=self.action[rows],
            state=state,
            condition=self.condition,
            action_noise=noise,
        )

    def sums(self, labels: Labels) -> LabelSums:
        """Computes the sums of one clip, without its last row, which belongs to no pair."""
        assert labels.true_action is not None
        # Statistics of actions describe what training sees, so the last row does not count.
        sums = label_sums(labels.true_action[:-1], self.low, self.high)
        return replace(
            sums,
            num_state=0 if labels.state is None else labels.state.shape[1],
            num_condition=0 if labels.condition is None else len(labels.condition),
        )

    def flawed_spans(self, info: VideoInfo) -> list[DamagedSpan]:
        """Returns the spans of the frames of flawed rows. Needs ``times_s``."""
        assert self.times_s is not None
        return flawed_spans(self.name, self.flaws, self.times_s, info)


def align(labels: EpisodeLabels, info: VideoInfo) -> EpisodeLabels:
    """Checks that the labels cover the video, and gives every row its time.

    Raises:
        VideoError: ``labels_mismatch``: some frames have no row.
    """
    if labels.times_s is None:
        num_frames, num_rows = len(info.times_s), len(labels.action)
        if num_frames != num_rows:
            detail = f"{num_frames} frames, {num_rows} rows of labels"
            raise VideoError("labels_mismatch", detail)
        return replace(labels, times_s=info.times_s, is_per_frame=True)
    if len(labels.times_s) == 1 < len(info.times_s):
        # One row has no step, by which all else is judged.
        detail = f"1 row of labels for {len(info.times_s)} frames"
        raise VideoError("labels_mismatch", detail)
    # Labels may begin late, or end early, by the slower clock's step, as both clocks are sampled.
    start_s, end_s = float(labels.times_s[0]), labels.times_s[-1] + _step_s(labels.times_s)
    slack_s = 1.01 * max(_step_s(labels.times_s), 1 / info.fps)
    if start_s > slack_s or abs(end_s - info.duration_s) > slack_s:
        span = f"labels from {start_s:.3f} to {end_s:.3f} s"
        raise VideoError(
            "labels_mismatch",
            f"{span}, the video ends at {info.duration_s:.3f} s. {_WAY_OUT}",
        )
    # If there are as many rows as frames, each close to its frame, their times differ by clocks or
    # jitter only.
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
    """Checks one episode's arrays, in the types of any format, and converts them.

    Raises:
        VideoError: ``no_labels``.
    """
    for name, rows in (("actions", action), ("states", state), ("time stamps", times_s)):
        if rows is not None and rows.dtype.kind not in "fiub":
            raise VideoError("no_labels", f"{name} must be numbers, got {rows.dtype}")
    if np.issubdtype(action.dtype, np.integer) and action.ndim == 1:
        flaws = _not_choices(action)
        action = action.astype(np.int64)
    elif action.ndim != 2 or not action.size:
        wanted = "actions must be [T, A], or whole numbers [T]"
        raise VideoError("no_labels", f"{wanted}, got {action.dtype} {list(action.shape)}")
    else:
        action, flaws = in_float32("action", action)
    if state is not None and state.ndim not in (1, 2):
        raise VideoError("no_labels", f"states must be [T, S], got {list(state.shape)}")
    for name, rows in (("states", state), ("time stamps", times_s)):
        if rows is not None and (rows.ndim < 1 or len(rows) != len(action)):
            shape = list(rows.shape)
            raise VideoError(
                "no_labels", f"{name} must have one row per action ({len(action)}), got {shape}"
            )
    if state is not None:
        state, of_state = in_float32("state", state.reshape(len(state), -1))
        flaws += of_state
    return EpisodeLabels(
        action=action,
        state=state,
        low=None,
        high=None,
        times_s=None if times_s is None else _ascending(times_s),
        flaws=tuple(flaws),
    )


def _not_choices(action: np.ndarray) -> list[Flaw]:
    """Finds discrete actions that are no number of a choice. Models have one output per choice."""
    rows = np.flatnonzero((action < 0) | (action >= _MAX_CHOICES))
    wanted = f"discrete actions are whole numbers from 0 to {_MAX_CHOICES - 1}"
    return [Flaw(int(row), f"action is {action[row]}, {wanted}") for row in rows]


def _ascending(times_s: np.ndarray) -> np.ndarray:
    # float64, because in float32 seconds since 1970 have steps of 128 s.
    times_s = times_s.astype(np.float64)
    if times_s.ndim != 1 or not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
        raise VideoError("no_labels", f"time stamps must be finite and ascend. {_WAY_OUT}")
    return times_s


def joined(names: Sequence[str], pick: Callable[[str], np.ndarray | None]) -> np.ndarray | None:
    """Joins several arrays side by side, in the order of their names; None if one is missing.

    Args:
        names: One or several names.
        pick: Name -> [T] or [T, ...], or None.

    Raises:
        VideoError: ``labels_mismatch``: the arrays differ in their number of rows.
    """
    parts = [pick(name) for name in names]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    if len(found) == 1:
        return found[0]
    if len({part.shape[:1] for part in found}) > 1:
        listed = ", ".join(f"{n} {list(p.shape)}" for n, p in zip(names, found, strict=True))
        raise VideoError("labels_mismatch", f"joined arrays must have one length, got {listed}")
    return np.concatenate([part.reshape(len(part), -1) for part in found], axis=1)


def rows_beside_frames(
    action: np.ndarray, state: np.ndarray | None, times_s: np.ndarray | None, num_frames: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Matches the rows of an episode with its frames in the same file, if their numbers agree.

    If there is one frame more than rows, no action follows the last frame. The last row is then
    repeated for it, which no pair of frames uses.

    Returns:
        Action, state, and time stamps, which are None if row t is frame t.
    """
    if action.ndim < 1 or not num_frames - 1 <= len(action) <= num_frames or not len(action):
        return action, state, times_s
    if state is not None and state.ndim and 0 < len(state) == num_frames - 1:
        state = np.concatenate([state, state[-1:]])
    return np.concatenate([action, action[-1:]])[:num_frames], state, None


def own_fps(times_s: np.ndarray | None) -> float | None:
    """Returns the rate of an episode's time stamps, if they are plausible seconds."""
    if times_s is None or times_s.ndim != 1 or len(times_s) < 2 or times_s.dtype.kind not in "fiu":
        return None
    step_s = float(np.median(np.diff(times_s.astype(np.float64))))
    return 1 / step_s if is_plausible_step(step_s) else None


def is_plausible_step(step_s: float) -> bool:
    """Says whether the time from one frame to the next may be in seconds."""
    return _SHORTEST_S <= step_s <= _LONGEST_S
