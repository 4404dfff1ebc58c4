"""HDF5 files in the layout of dunnolab/laom: a group per trajectory with obs, actions and states.

Trajectories have no time stamps: their rate is ``labels.fps``.
"""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data_pipelines.rows import VideoItem
from data_pipelines.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.stages.list_videos import holds_files, list_source_files
from data_pipelines.stages.read_labels import EpisodeLabels, LabelsConfig, episode_labels
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split
from lafp.storage import FileInfo
from lafp.video.array_video import array_frames, array_info
from lafp.video.decoder import VideoError

FRAMES_KEY, ACTION_KEY, STATE_KEY = "obs", "actions", "states"
# Files of thousands of trajectories are dealt out in pieces of about this size.
_ITEM_BYTES = 64 * 2**20


class Hdf5:
    """Reads trajectories from HDF5 files."""

    def is_at(self, source: str) -> bool:
        """Whether there are HDF5 files among the first of the source."""
        return holds_files(source, _is_hdf5)

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Pieces of local files; whole files on S3, where looking inside would fetch them."""
        h5py = import_h5py()
        for file in list_source_files(source):
            if not _is_hdf5(file.uri):
                continue
            pieces = [([], file.num_bytes)] if storage.is_s3(file.uri) else _pieces(h5py, file)
            for names, num_bytes in pieces:
                yield VideoItem(
                    uri=f"{file.uri}#{names[0]}" if names else file.uri,
                    num_bytes=num_bytes,
                    split=split,
                    labels_uri=file.uri,
                    reader="hdf5",
                    details={"trajectories": names},
                )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Every trajectory of the piece."""
        assert item.labels_uri is not None
        h5py = import_h5py()
        with storage.local_file(item.labels_uri) as path, _open_file(h5py, path) as file:
            for name in item.details["trajectories"] or _names(h5py, file):
                uri = f"{item.labels_uri}#{name}"
                try:
                    yield _open_trajectory(file, name, uri, using.labels)
                except VideoError as error:
                    yield Unusable(uri, error.reason, error.detail)


def import_h5py() -> ModuleType:
    """``h5py``, which only this format needs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ConfigError("Reading HDF5 needs h5py: pip install h5py.") from None
    return h5py


def _open_file(h5py: ModuleType, path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise VideoError("does_not_decode", f"no HDF5 file: {error}") from error


def _names(h5py: ModuleType, file: Any) -> list[str]:
    """The trajectories' names in numerical order."""
    names = [name for name in file if isinstance(file[name], h5py.Group)]
    if not names:
        raise VideoError("no_video_stream", "no group of a trajectory")
    return sorted(names, key=lambda name: (len(name), name))


def _pieces(h5py: ModuleType, info: FileInfo) -> Iterator[tuple[list[str], int]]:
    """Names of trajectories, and bytes of their share of the file."""
    try:
        with _open_file(h5py, Path(info.uri)) as file:
            names = _names(h5py, file)
    except (VideoError, FileNotFoundError, RuntimeError):
        yield [], info.num_bytes  # whoever opens it will say what is wrong
        return
    num_pieces = min(len(names), -(-info.num_bytes // _ITEM_BYTES))
    for piece in np.array_split(np.arange(len(names)), num_pieces):
        yield [names[i] for i in piece], info.num_bytes * len(piece) // len(names)


def _open_trajectory(file: Any, name: str, uri: str, cfg: LabelsConfig) -> Opened:
    frames = _read(file, name, cfg.frames_key or FRAMES_KEY, cfg.max_array_bytes)
    if frames is None or frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        found = "none" if frames is None else f"{frames.dtype} {list(frames.shape)}"
        key = cfg.frames_key or FRAMES_KEY
        raise VideoError("no_video_stream", f"{key} must be uint8 [T, H, W, 3], got {found}")
    if not len(frames):
        raise VideoError("no_frames", "no frames")
    keys = (cfg.action_key or ACTION_KEY, cfg.state_key or STATE_KEY, cfg.time_key or "")
    arrays = {key: _read(file, name, key, cfg.max_array_bytes) for key in keys}
    return Opened(
        uri=uri,
        video_id=hashlib.sha256(frames.tobytes()).hexdigest()[:32],
        num_bytes=frames.nbytes,
        info=array_info(frames, cfg.fps),
        frames=partial(array_frames, frames, cfg.fps),
        labels=partial(_labels, arrays, cfg),
    )


def _labels(arrays: dict[str, np.ndarray | None], cfg: LabelsConfig) -> EpisodeLabels:
    action, state, times_s = arrays.values()
    if action is None:
        raise VideoError("no_labels", f"no array {cfg.action_key or ACTION_KEY!r}")
    return episode_labels(action, state, times_s)


def _read(file: Any, name: str, key: str, max_bytes: int) -> np.ndarray | None:
    """The array; None if there is none of this name.

    Raises:
        VideoError: ``too_many_bytes`` or ``does_not_decode``.
    """
    try:
        found = file[name].get(key)
        if found is None or not hasattr(found, "nbytes"):
            return None
        if found.nbytes > max_bytes:
            raise VideoError("too_many_bytes", f"an array of {found.nbytes} bytes")
        return np.asarray(found[()])
    except (OSError, RuntimeError, KeyError) as error:
        raise VideoError("does_not_decode", f"{key}: {error}") from error


def _is_hdf5(uri: str) -> bool:
    return uri.lower().endswith((".hdf5", ".h5"))
