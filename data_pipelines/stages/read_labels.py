"""Per-frame labels of episodes: a sidecar beside each video, or episodes stacked in one file."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.rows import LabelSums
from lafp import storage
from lafp.data.shard_format import Labels
from lafp.video.decoder import VideoError, VideoInfo

# Rates closer than this are one rate: 29.97 is not 30, but 10.0003 is 10.
_SAME_RATE = 5e-4


@dataclass(frozen=True, kw_only=True)
class LabelsConfig:
    """Where actions and states are in ``.npz`` files.

    ``x.mp4`` takes its labels from ``x.npz``: ``action`` [T, A] (discrete: integer [T]), one row
    per frame, row t acting between frames t and t+1. An ``.npz`` without a video holds stacked
    episodes: frames uint8 [N, T, H, W, 3] and ``action`` [N, T, A]. Optional in both:
    ``action_low`` and ``action_high`` [A], the bounds of the action space.
    """

    action_key: str = "action"
    state_key: str = "state"
    """Optional array [T, S]; kept where it is there."""
    frames_key: str = "image_0"
    """Frames of stacked episodes."""
    fps: float = 5.0
    """Rate of stacked episodes, which have no time stamps."""
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
    """Labels of one whole episode, one row per frame."""

    action: np.ndarray
    """float32 [T, A], or int64 [T] when discrete."""
    state: np.ndarray | None
    low: np.ndarray | None
    """float32 [A]: bounds of the action space, where the file gives them."""
    high: np.ndarray | None

    def of_clip(self, start_s: float, num_frames: int, fps: float) -> Labels:
        """The rows of a clip's frames."""
        first = round(start_s * fps)
        rows = slice(first, first + num_frames)
        state = None if self.state is None else self.state[rows]
        assert len(self.action[rows]) == num_frames
        return Labels(true_action=self.action[rows], state=state)

    def sums(self, labels: Labels) -> LabelSums:
        """What one clip adds to the statistics; its last row belongs to no pair."""
        actions = labels.true_action[:-1].astype(np.float64)
        if actions.ndim == 1:
            choices = int(actions.max(initial=-1)) + 1
            return LabelSums(
                num_rows=len(actions), total=(), total_squares=(), low=(), high=(),
                is_bounded=False, num_choices=choices,
            )  # fmt: skip
        low = actions.min(axis=0) if self.low is None else self.low
        high = actions.max(axis=0) if self.high is None else self.high
        return LabelSums(
            num_rows=len(actions),
            total=tuple(actions.sum(axis=0).tolist()),
            total_squares=tuple((actions**2).sum(axis=0).tolist()),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            is_bounded=self.low is not None and self.high is not None,
        )


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
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = max((member.file_size for member in archive.infolist()), default=0)
        if num_bytes > cfg.max_array_bytes:
            raise VideoError("too_many_bytes", f"an array of {num_bytes} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays[cfg.frames_key]
            if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
                raise ValueError(
                    f"{cfg.frames_key} must be uint8 [N, T, H, W, 3], got "
                    f"{frames.dtype} {list(frames.shape)}"
                )
            loaded = {key: arrays[key] for key in _keys(cfg) if key in arrays}
    except (KeyError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise VideoError("no_labels", _line(error)) from error
    for index in range(len(frames)):
        yield frames[index], _episode(loaded, cfg, index)


def check_belong(labels: EpisodeLabels, info: VideoInfo, fps: float) -> None:
    """Checks that row t of the labels is frame t of the clips.

    Raises:
        VideoError: ``labels_mismatch``: another number of frames, or the clips have another rate
            than the video, so that rows would have to be invented.
    """
    num_frames = round(info.duration_s * info.fps)
    if not info.is_constant_rate:
        raise VideoError("labels_mismatch", "the video's frame rate varies")
    if abs(fps / info.fps - 1) > _SAME_RATE:
        raise VideoError(
            "labels_mismatch",
            f"labels are per frame at {info.fps:.6g} fps, clip.fps is {fps:.6g}: set clip.fps=null",
        )
    if num_frames != len(labels.action):
        raise VideoError(
            "labels_mismatch", f"{num_frames} frames, {len(labels.action)} rows of labels"
        )


def _keys(cfg: LabelsConfig) -> tuple[str, ...]:
    return cfg.action_key, cfg.state_key, "action_low", "action_high"


def _episode(arrays: Mapping[str, Any], cfg: LabelsConfig, index: int | None) -> EpisodeLabels:
    if cfg.action_key not in arrays:
        raise VideoError("no_labels", f"no array {cfg.action_key!r}")

    def pick(key: str) -> np.ndarray | None:
        if key not in arrays:
            return None
        return arrays[key] if index is None else arrays[key][index]

    action, state = pick(cfg.action_key), pick(cfg.state_key)
    assert action is not None
    if np.issubdtype(action.dtype, np.integer) and action.ndim == 1:
        return EpisodeLabels(action=action.astype(np.int64), state=state, low=None, high=None)
    if action.ndim != 2 or not np.isfinite(action).all():
        raise VideoError(
            "no_labels", f"{cfg.action_key} must be finite [T, A], got {list(action.shape)}"
        )
    bounds = {name: _bound(arrays, f"action_{name}", action.shape[1]) for name in ("low", "high")}
    state = None if state is None else state.astype(np.float32)
    return EpisodeLabels(action=action.astype(np.float32), state=state, **bounds)


def _bound(arrays: Mapping[str, Any], key: str, dim: int) -> np.ndarray | None:
    if key not in arrays:
        return None
    bound = np.asarray(arrays[key], np.float32)
    if bound.shape != (dim,):
        raise VideoError("no_labels", f"{key} must be [{dim}], got {list(bound.shape)}")
    return bound


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
