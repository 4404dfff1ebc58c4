"""Reads labels in ``.npz`` files, which lie beside a video or also hold the frames of episodes."""

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from data_pipelines.preprocess.clip.labels.read import (
    EpisodeLabels,
    LabelsConfig,
    Rate,
    episode_labels,
    joined,
    own_fps,
    rows_beside_frames,
)
from lafp import storage
from lafp.video.decoders.base import VideoError

_FRAMES_KEY, _ACTION_KEY, _STATE_KEY = "image_0", "action", "state"
_NOISE_KEY = "action_noise"


def read_sidecar(uri: str, cfg: LabelsConfig) -> EpisodeLabels:
    """Reads the labels of one video.

    Raises:
        VideoError: ``no_labels``: the file is missing or holds something else.
        OSError: The file may not be read, or is not a regular file.
    """
    name = uri.rpartition("/")[2]
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        raise VideoError("no_labels", f"there is no {name} beside it") from None
    with _Arrays(io.BytesIO(data), cfg, f"{name}: ") as arrays:
        return _episode(arrays, cfg)


@dataclass(frozen=True)
class StackedEpisode:
    """Holds one episode whose frames lie in the same file as its labels."""

    frames: np.ndarray
    """uint8 [T, H, W, 3]."""
    rate: Rate
    labels: Callable[[], EpisodeLabels]
    """Reads the labels; may raise ``VideoError``. Valid until the next episode is read."""


def read_stacked(path: Path, cfg: LabelsConfig) -> Iterator[StackedEpisode]:
    """Yields every episode in a file.

    Raises:
        VideoError: ``no_labels``, ``no_video_stream`` or ``too_many_bytes``.
    """
    key = cfg.frames_key or _FRAMES_KEY
    with path.open("rb") as file, _Arrays(file, cfg) as arrays:
        shape, dtype = arrays.headers.get(key, ((), np.dtype(np.void)))
        if len(shape) not in (4, 5) or shape[-1] != 3 or dtype != np.uint8:
            found = f"is {dtype} {list(shape)}" if key in arrays.headers else "is not there"
            raise VideoError(
                "no_video_stream",
                f"frames must be uint8 [T, H, W, 3] or [N, T, H, W, 3]: {key!r} {found}. "
                f"{arrays.in_words()}. labels.frames_key names the frames, labels.action_key the "
                "actions, labels.state_key the states",
            )
        frames = arrays.read(key)
        for index in range(len(frames)) if frames.ndim == 5 else [None]:
            episode = frames if index is None else frames[index]
            labels = partial(_episode, arrays, cfg, index, len(episode))
            times_s = _part(arrays, cfg.time_key, index)
            yield StackedEpisode(episode, cfg.rate(own_fps(times_s)), labels)


class _Arrays:
    """Reads arrays of an ``.npz`` file one by one, without unpickling.

    Any error in the file becomes a ``VideoError``.
    """

    def __init__(self, file: BinaryIO, cfg: LabelsConfig, name: str = "") -> None:
        self._file, self._cfg, self._name = file, cfg, name
        self._found: dict[str, np.ndarray] = {}
        self.headers: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        """Shape and type of every array."""

    def __enter__(self) -> "_Arrays":
        with self._errors():
            # `np.load` would read arrays whole before their size is known, and its error for
            # pickled arrays names no array.
            self._zip = zipfile.ZipFile(self._file)
            for member in self._zip.namelist():
                if member.endswith(".npy"):
                    with self._zip.open(member) as array:
                        self.headers[member.removesuffix(".npy")] = _read_header(array)
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self, key: str) -> np.ndarray:
        """Reads one of the arrays in ``headers``."""
        if key not in self._found:
            shape, dtype = self.headers[key]
            num_bytes = math.prod(shape) * dtype.itemsize
            # The header says how large the array will be, so a hostile file fills no memory.
            if num_bytes > self._cfg.max_array_bytes:
                raise VideoError("too_many_bytes", f"{key} is an array of {num_bytes} bytes")
            with self._errors(), self._zip.open(f"{key}.npy") as array:
                self._found[key] = np.lib.format.read_array(array, allow_pickle=False)
        return self._found[key]

    def in_words(self) -> str:
        """Describes the arrays of the file."""
        listed = [f"{key} {dtype} {list(shape)}" for key, (shape, dtype) in self.headers.items()]
        return f"{self._name}it holds {', '.join(listed) or 'no arrays'}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        # A lack of memory is the machine's fault, and must not become a reject of the file.
        except MemoryError:
            raise
        except Exception as error:  # a hostile file may raise anything; no storage is involved
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise VideoError("no_labels", f"{self._name}{line}") from error


def _read_header(array: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(array)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(array)
    else:
        # Version 3 differs from 2 only in the encoding of the names of fields.
        shape, _, dtype = np.lib.format.read_array_header_2_0(array)
    return shape, dtype


def _episode(
    arrays: _Arrays, cfg: LabelsConfig, index: int | None = None, num_frames: int | None = None
) -> EpisodeLabels:
    """Reads the labels of a file's one episode, or of one of its stacked episodes.

    Args:
        arrays: The file.
        cfg: Names of its arrays.
        index: Number of a stacked episode.
        num_frames: Number of frames, if they lie in the file too.
    """
    names = cfg.action_names(_ACTION_KEY)
    if missing := [name for name in names if name not in arrays.headers]:
        raise VideoError(
            "no_labels",
            f"no array {missing[0]!r}. {arrays.in_words()}. labels.action_key names the actions, "
            "labels.action_parts several arrays that make them",
        )

    def pick(key: str | None) -> np.ndarray | None:
        return _part(arrays, key, index)

    action, state = joined(names, pick), joined(cfg.state_names(_STATE_KEY), pick)
    times_s = pick(cfg.time_key)
    assert action is not None
    if num_frames is not None:
        action, state, times_s = rows_beside_frames(action, state, times_s, num_frames)
    labels = episode_labels(action, state, times_s)
    noise = _noise(pick(_NOISE_KEY), labels.action)
    labels = replace(labels, condition=_condition(pick(cfg.condition_key)), action_noise=noise)
    if labels.action.ndim == 1:
        return labels
    dim = labels.action.shape[1]
    low, high = _bound(arrays, "action_low", dim), _bound(arrays, "action_high", dim)
    if low is not None and high is not None and (low > high).any():
        raise VideoError("no_labels", "action_low is above action_high")
    return replace(labels, low=low, high=high)


def _noise(found: np.ndarray | None, action: np.ndarray) -> np.ndarray | None:
    """Checks the exploration noise that ``collect`` stores; None if there is none.

    Raises:
        VideoError: ``labels_mismatch``: it is not finite, or has another shape than the actions.
    """
    if found is None:
        return None
    if found.dtype.kind != "f" or found.shape != action.shape or not np.isfinite(found).all():
        detail = f"{_NOISE_KEY} must be finite and {list(action.shape)}, got {list(found.shape)}"
        raise VideoError("labels_mismatch", detail)
    return found.astype(np.float32)


def _part(arrays: _Arrays, key: str | None, index: int | None) -> np.ndarray | None:
    """Returns an array, or one stacked episode's part of it; None if the file lacks the array."""
    if key is None or key not in arrays.headers:
        return None
    found = arrays.read(key)
    if index is not None and (not found.ndim or index >= len(found)):
        raise VideoError("labels_mismatch", f"{key} {list(found.shape)} has no row {index}")
    return found if index is None else found[index]


def _condition(vector: np.ndarray | None) -> np.ndarray | None:
    if vector is None:
        return None
    is_number = vector.dtype.kind in "fiub"
    if vector.ndim != 1 or not is_number or not len(vector) or not np.isfinite(vector).all():
        detail = f"{vector.dtype} {list(vector.shape)}"
        raise VideoError("no_labels", f"an episode's condition must be finite [G], got {detail}")
    return vector.astype(np.float32)


def _bound(arrays: _Arrays, key: str, dim: int) -> np.ndarray | None:
    if key not in arrays.headers:
        return None
    bound = arrays.read(key)
    if bound.shape != (dim,) or bound.dtype.kind not in "fiub":
        raise VideoError("no_labels", f"{key} must be [{dim}], got {list(bound.shape)}")
    if np.isnan(bound).any():
        raise VideoError("no_labels", f"{key} must be numbers, got NaN")
    with np.errstate(over="ignore"):
        bound = bound.astype(np.float32)
    # Gymnasium gives infinite bounds to an action space without bounds.
    return bound if np.isfinite(bound).all() else None
