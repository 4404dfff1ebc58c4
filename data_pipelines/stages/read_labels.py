"""Labels of episodes, aligned by time, and ``.npz`` files of them: sidecars, stacked episodes."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.action_statistics import label_sums
from data_pipelines.rows import LabelSums
from data_pipelines.stages.resample import JITTER
from lafp import storage
from lafp.data.shard_format import Labels
from lafp.video.decoder import VideoError, VideoInfo


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Where actions and states are. The format of the source is found by its content.

    - LeRobot datasets (v2.0, v2.1, v3.0): a folder with ``meta/info.json``.
    - RLDS: ``*.tfrecord*`` files.
    - HDF5 (``.hdf5``, ``.h5``): per trajectory a group with ``obs``, ``actions`` and ``states``.
    - ``x.mp4`` takes its labels from ``x.npz``: ``action`` [T, A] (discrete: integer [T]), one row
      per frame, row t acting between frames t and t+1; or, with ``timestamp`` [T], rows at any
      rate. An ``.npz`` without a video holds stacked episodes: frames uint8 [N, T, H, W, 3] and
      ``action`` [N, T, A]. Optional in both: ``action_low`` and ``action_high`` [A], the bounds of
      the action space.

    Labels are aligned by time: a clip's row t is the action in force when its frame t is shown,
    the latest row that is not later (zero-order hold), whatever the rates of clips and control.
    """

    action_key: str | None = None
    """null takes the format's own name: `action`, in HDF5 `actions`."""
    state_key: str | None = None
    """Optional array [T, S]; kept where it is there. null takes the format's own name: `state`,
    in LeRobot `observation.state`, in RLDS `observation/state`, in HDF5 `states`."""
    condition_key: str = "condition"
    """Optional array of ``.npz`` files, [G], in stacked episodes [N, G]: one vector per episode
    that says what it is to do (a one-hot task id, the embedding of a text or of a goal image)."""
    time_key: str = "timestamp"
    """Optional array [T] of seconds: when each row comes into force."""
    frames_key: str | None = None
    """Frames of stacked episodes: `image_0`, in HDF5 `obs`."""
    fps: float = 5.0
    """Rate of stacked episodes, RLDS and HDF5, which have no time stamps."""
    max_array_bytes: int = 4 * 2**30
    """Largest array of stacked episodes: it is in memory while its episodes are cut."""

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.max_array_bytes <= 0:
            raise ValueError(
                f"fps and max_array_bytes must be positive, got {self.fps} and "
                f"{self.max_array_bytes}."
            )


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
    condition: np.ndarray | None = None
    """float32 [G], of the whole episode."""

    def of_clip(self, start_s: float, num_frames: int, fps: float) -> Labels:
        """The rows in force when a clip's frames are shown. Needs times.

        A row that begins up to a quarter of a step late still counts, as ``resample`` has it for
        frames: where rows belong to frames, the row is that of the frame shown.
        """
        assert self.times_s is not None
        tolerance_s = JITTER * min(_step_s(self.times_s), 1 / fps)
        shown_s = start_s + np.arange(num_frames) / fps
        rows = np.searchsorted(self.times_s - tolerance_s, shown_s, side="right") - 1
        rows = rows.clip(min=0)
        state = None if self.state is None else self.state[rows]
        return Labels(true_action=self.action[rows], state=state, condition=self.condition)

    def sums(self, labels: Labels) -> LabelSums:
        """What one clip adds to the statistics; its last row belongs to no pair."""
        assert labels.true_action is not None
        return label_sums(labels.true_action[:-1], self.low, self.high)


def read_sidecar(uri: str, cfg: LabelsConfig) -> EpisodeLabels:
    """Reads the labels of one video.

    Raises:
        VideoError: ``no_labels``: the file is missing or holds something else.
    """
    try:
        with np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False) as arrays:
            return _episode(arrays, cfg, index=None)
    except (FileNotFoundError, KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise VideoError("no_labels", f"{uri.rpartition('/')[2]}: {_line(error)}") from error


def read_stacked(path: Path, cfg: LabelsConfig) -> Iterator[tuple[np.ndarray, EpisodeLabels]]:
    """Yields frames, uint8 [T, H, W, 3], and labels of every episode in a file.

    Raises:
        VideoError: ``no_labels`` or ``too_many_bytes``.
    """
    frames_key = cfg.frames_key or "image_0"
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = max((member.file_size for member in archive.infolist()), default=0)
        if num_bytes > cfg.max_array_bytes:
            raise VideoError("too_many_bytes", f"an array of {num_bytes} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays[frames_key]
            if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
                raise ValueError(
                    f"{frames_key} must be uint8 [N, T, H, W, 3], got "
                    f"{frames.dtype} {list(frames.shape)}"
                )
            loaded = {key: arrays[key] for key in _keys(cfg) if key in arrays}
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise VideoError("no_labels", _line(error)) from error
    for index in range(len(frames)):
        yield frames[index], _episode(loaded, cfg, index)


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
        return replace(labels, times_s=info.times_s)
    # A row may come late, or end early, by the slower one's step: both clocks are sampled.
    start_s, end_s = float(labels.times_s[0]), labels.times_s[-1] + _step_s(labels.times_s)
    slack_s = 1.01 * max(_step_s(labels.times_s), 1 / info.fps)
    if start_s > slack_s or abs(end_s - info.duration_s) > slack_s:
        span = f"labels from {start_s:.3f} to {end_s:.3f} s"
        raise VideoError("labels_mismatch", f"{span}, the video ends at {info.duration_s:.3f} s")
    return labels


def _step_s(times_s: np.ndarray) -> float:
    return float(np.median(np.diff(times_s))) if len(times_s) > 1 else float("inf")


_ACTION_KEY, _STATE_KEY = "action", "state"


def _keys(cfg: LabelsConfig) -> tuple[str, ...]:
    action_key, state_key = cfg.action_key or _ACTION_KEY, cfg.state_key or _STATE_KEY
    return action_key, state_key, cfg.condition_key, cfg.time_key, "action_low", "action_high"


def _episode(arrays: Mapping[str, Any], cfg: LabelsConfig, index: int | None) -> EpisodeLabels:
    action_key, state_key, condition_key, time_key, *_ = _keys(cfg)
    if action_key not in arrays:
        raise VideoError("no_labels", f"no array {action_key!r}")

    def pick(key: str) -> np.ndarray | None:
        if key not in arrays:
            return None
        return arrays[key] if index is None else arrays[key][index]

    action = pick(action_key)
    assert action is not None
    labels = episode_labels(action, pick(state_key), pick(time_key))
    labels = replace(labels, condition=_condition(pick(condition_key)))
    if labels.action.ndim == 1:
        return labels
    dim = labels.action.shape[1]
    low, high = _bound(arrays, "action_low", dim), _bound(arrays, "action_high", dim)
    return replace(labels, low=low, high=high)


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
    elif action.ndim != 2 or not len(action) or not np.isfinite(action).all():
        raise VideoError("no_labels", f"actions must be finite [T, A], got {list(action.shape)}")
    else:
        action = action.astype(np.float32)
    for name, rows in (("states", state), ("time stamps", times_s)):
        if rows is not None and (rows.ndim < 1 or len(rows) != len(action)):
            raise VideoError("no_labels", f"{list(rows.shape)} {name}, {len(action)} actions")
    if times_s is not None:
        times_s = times_s.astype(np.float64)
        if times_s.ndim != 1 or not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any():
            raise VideoError("no_labels", "time stamps must be finite and ascend")
    state = None if state is None else state.astype(np.float32)
    return EpisodeLabels(action=action, state=state, low=None, high=None, times_s=times_s)


def _condition(vector: np.ndarray | None) -> np.ndarray | None:
    if vector is None:
        return None
    is_number = vector.dtype.kind in "fiub"
    if vector.ndim != 1 or not is_number or not len(vector) or not np.isfinite(vector).all():
        detail = f"{vector.dtype} {list(vector.shape)}"
        raise VideoError("no_labels", f"an episode's condition must be finite [G], got {detail}")
    return vector.astype(np.float32)


def _bound(arrays: Mapping[str, Any], key: str, dim: int) -> np.ndarray | None:
    if key not in arrays:
        return None
    bound = np.asarray(arrays[key], np.float32)
    if bound.shape != (dim,):
        raise VideoError("no_labels", f"{key} must be [{dim}], got {list(bound.shape)}")
    return bound


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
