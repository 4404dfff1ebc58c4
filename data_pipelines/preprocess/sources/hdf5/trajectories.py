"""Reads trajectories from HDF5 files in the layouts of laom, robomimic and ALOHA.

- laom: a group per trajectory with ``obs`` (one camera), ``actions`` and ``states``.
- robomimic: ``data/demo_0`` with ``obs/<camera>``, ``actions`` and ``states``.
- ALOHA: one trajectory per file, ``observations/images/<camera>`` (raw or JPEG), ``action`` and
  ``observations/qpos``.

Trajectories have no time stamps: their rate is ``labels.fps``, or the rate given in the file.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data_pipelines.preprocess.clip.labels.read import (
    EpisodeLabels,
    LabelsConfig,
    episode_labels,
    joined,
    own_fps,
    rows_beside_frames,
)
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.file_kinds import kind_of_content, labeled_format
from data_pipelines.preprocess.sources.hdf5.layout import (
    Camera,
    cameras,
    encoded_pictures,
    fps_of,
    trajectory_names,
)
from data_pipelines.preprocess.sources.hdf5.members import (
    content,
    in_words,
    member,
    outside_name,
    shown,
)
from data_pipelines.preprocess.sources.list_videos import list_source_files
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.preprocess.sources.pictures import open_pictures
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split
from lafp.storage import FileInfo
from lafp.video.decoders.arrays import array_frames, array_info
from lafp.video.decoders.base import VideoError

ACTION_KEYS = ("actions", "action")
STATE_KEYS = ("states", "observations/qpos")
# Files of thousands of trajectories are divided into pieces of about this size.
_ITEM_BYTES = 64 * 2**20
_PICTURES = "uint8 [T, H, W, 3] or JPEG or PNG [T]"


class Hdf5:
    """Reads trajectories from HDF5 files."""

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Yields pieces of local files; whole files on S3, where a look inside would fetch them."""
        h5py = import_h5py()
        for file in list_source_files(source):
            if labeled_format(file.uri) != "hdf5":
                continue
            pieces = [([], file.num_bytes)] if storage.is_remote(file.uri) else _pieces(h5py, file)
            for names, num_bytes in pieces:
                yield VideoItem(
                    uri=f"{file.uri}#{shown(names[0])}" if names else file.uri,
                    num_bytes=num_bytes,
                    split=split,
                    labels_uri=file.uri,
                    reader="hdf5",
                    details={"trajectories": names},
                )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Yields every camera of every trajectory of the piece."""
        assert item.labels_uri is not None
        h5py = import_h5py()
        with storage.local_file(item.labels_uri) as path, _open_file(h5py, path) as file:
            for name in item.details["trajectories"] or _names(h5py, file):
                yield from _open_trajectory(h5py, file, name, item.labels_uri, using)


def import_h5py() -> ModuleType:
    """Imports ``h5py``, which only this format needs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ConfigError(
            "Reading HDF5 needs h5py. Install it with: pip install 'lafp[hdf5]'"
        ) from None
    return h5py


def _open_file(h5py: ModuleType, path: Path) -> Any:
    # Asked first, because the error of h5py below would count as broken content of the file.
    if not path.is_file():
        raise FileNotFoundError(f"No such file: {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not h5py.is_hdf5(path):
            with path.open("rb") as content_of:
                kind = kind_of_content(content_of.read(256))
            what = f"it is {kind}" if kind else str(error)
            raise VideoError("does_not_decode", f"not an HDF5 file: {what}") from error
        is_cut = "truncated file" in str(error)
        raise VideoError("truncated" if is_cut else "does_not_decode", str(error)) from error
    try:
        name = outside_name(h5py, file)
    except Exception as error:  # h5py raises errors of many kinds for broken bytes
        file.close()
        raise VideoError("does_not_decode", f"a broken HDF5 file: {error}") from error
    if name:
        file.close()
        raise VideoError("does_not_decode", f"{name!r} lies in another file, which is not read")
    return file


def _names(h5py: ModuleType, file: Any) -> list[str]:
    try:
        return trajectory_names(h5py, file)
    except Exception as error:  # as above
        raise VideoError("does_not_decode", f"a broken HDF5 file: {error}") from error


def _pieces(h5py: ModuleType, info: FileInfo) -> Iterator[tuple[list[str], int]]:
    """Yields names of trajectories with the bytes of their share of the file."""
    try:
        with _open_file(h5py, Path(info.uri)) as file:
            names = _names(h5py, file)
    except (VideoError, FileNotFoundError):
        yield [], info.num_bytes  # opening the file will report the error
        return
    num_pieces = min(len(names), -(-info.num_bytes // _ITEM_BYTES))
    for piece in np.array_split(np.arange(len(names)), num_pieces):
        yield [names[i] for i in piece], info.num_bytes * len(piece) // len(names)


def _open_trajectory(
    h5py: ModuleType, file: Any, name: str, uri: str, using: OpenWith
) -> Iterator[Opened | Unusable]:
    cfg = using.labels
    uri = uri if name == "/" else f"{uri}#{shown(name).removeprefix('data/')}"
    try:
        group = member(file, name)
        found = cameras(h5py, group, cfg.frames_key)
    except VideoError as error:
        yield Unusable(uri, error.reason, error.detail)
        return
    if all(camera.kind == "depth" for camera in found):
        yield Unusable(uri, "no_video_stream", _no_camera(h5py, file, group, cfg))
    for camera in found:
        separator = "#" if name == "/" else "/"
        camera_uri = f"{uri}{separator}{shown(camera.name)}" if camera.name else uri
        try:
            opened = _open_camera(h5py, file, group, camera, camera_uri, using)
        except VideoError as error:
            opened = Unusable(camera_uri, error.reason, error.detail)
        yield opened


def _no_camera(h5py: ModuleType, file: Any, group: Any, cfg: LabelsConfig) -> str:
    if {"action", "observation"} <= set(file):  # trajectory.h5 of a raw DROID episode
        return (
            f"it holds no pictures, but {in_words(h5py, group)}. If it is a raw DROID episode, its "
            "videos (recordings/MP4/*.mp4) are not paired with it: take DROID's RLDS release for "
            "actions, or leave `labels` out and use the videos alone"
        )
    key = f" {cfg.frames_key!r}" if cfg.frames_key else ""
    return (
        f"no array{key} of pictures, {_PICTURES}, among {in_words(h5py, group)}. "
        "labels.frames_key names it, labels.action_key the actions, labels.state_key the states"
    )


def _open_camera(
    h5py: ModuleType, file: Any, group: Any, camera: Camera, uri: str, using: OpenWith
) -> Opened | Unusable:
    if camera.kind == "depth":
        return Unusable(uri, "depth", f"{camera.key} holds depth maps")
    found, cfg = member(group, camera.key), using.labels
    if camera.kind == "other":
        came = f"{camera.key} is {found.dtype} {list(found.shape)}"
        return Unusable(uri, "no_video_stream", f"{came}, pictures are {_PICTURES}")
    times_s = _read(group, cfg.time_key, cfg.max_array_bytes) if cfg.time_key else None
    rate = cfg.rate(own_fps(times_s) or fps_of(file))
    frames, lost = _read_frames(group, camera, cfg.max_array_bytes)
    if not len(frames):
        raise VideoError("no_frames", "no frames")
    labels = partial(_labels, h5py, group, len(frames), cfg)
    # Cameras of one trajectory show one scene, so they must go to the same split.
    episode_id = _episode_id(group, cfg) if camera.name else ""
    if camera.kind == "encoded":
        pictures = encoded_pictures(frames)
        return open_pictures(
            pictures,
            uri,
            episode_id,
            rate.fps,
            using.max_pixels,
            labels,
            is_rate_assumed=rate.is_assumed,
        )
    return Opened(
        uri=uri,
        video_id=hashlib.sha256(frames.tobytes()).hexdigest()[:32],
        episode_id=episode_id,
        num_bytes=frames.nbytes,
        info=array_info(frames, rate.fps),
        frames=partial(array_frames, _or_error(frames, lost), rate.fps),
        labels=labels,
        is_rate_assumed=rate.is_assumed,
    )


def _read_frames(group: Any, camera: Camera, max_bytes: int) -> tuple[np.ndarray, set[int]]:
    """Reads the pictures, and finds which of them lie in broken parts of the file."""
    try:
        frames = _read(group, camera.key, max_bytes)
        assert frames is not None
        return frames, set()
    except VideoError as error:
        if error.reason != "does_not_decode" or camera.kind != "raw":
            raise
    found = member(group, camera.key)
    # A chunk of the file is broken, so frames are read one by one: only those in the chunk are
    # lost.
    frames, lost = np.zeros(found.shape, np.uint8), set()
    for i in range(len(frames)):
        try:
            frames[i] = found[i]
        except OSError:
            lost.add(i)
    return frames, lost


def _or_error(frames: np.ndarray, lost: set[int]) -> list[np.ndarray | VideoError]:
    broken = VideoError("damaged", "this part of the file cannot be read")
    return [broken if i in lost else pixels for i, pixels in enumerate(frames)]


def _labels(h5py: ModuleType, group: Any, num_frames: int, cfg: LabelsConfig) -> EpisodeLabels:
    pick = partial(_read, group, max_bytes=cfg.max_array_bytes)
    action = joined(_action_names(group, cfg), pick)
    if action is None:
        raise VideoError(
            "no_labels",
            f"no array {_action_names(group, cfg)[0]!r} among {in_words(h5py, group)}. "
            "labels.action_key names the actions, labels.action_parts several that make them",
        )
    state = joined(cfg.state_names(_there(group, STATE_KEYS)), pick)
    times_s = pick(cfg.time_key) if cfg.time_key else None
    return episode_labels(*rows_beside_frames(action, state, times_s, num_frames))


def _action_names(group: Any, cfg: LabelsConfig) -> tuple[str, ...]:
    return cfg.action_names(_there(group, ACTION_KEYS))


def _there(group: Any, keys: Sequence[str]) -> str:
    """Returns the first key that the group has, or the first key if it has none of them."""
    return next((key for key in keys if content(group, key) is not None), keys[0])


def _episode_id(group: Any, cfg: LabelsConfig) -> str:
    """Hashes a trajectory's actions to an id that all of its cameras share."""
    pick = partial(_read, group, max_bytes=cfg.max_array_bytes)
    action = joined(_action_names(group, cfg), pick)
    return "" if action is None else hashlib.sha256(action.tobytes()).hexdigest()[:32]


def _unknown_filters(found: Any) -> str:
    """Names the filters of an array, such as compressions, that are not installed."""
    listed, h5z = found.id.get_create_plist(), import_h5py().h5z
    filters = [listed.get_filter(i) for i in range(listed.get_nfilters())]
    unknown = [
        f"{code} {name.decode(errors='replace')}"
        for code, _, _, name in filters
        if not h5z.filter_avail(code)
    ]
    return ", ".join(unknown).strip()


def _read(group: Any, key: str, max_bytes: int) -> np.ndarray | None:
    """Reads an array; None if there is none of this name.

    Raises:
        VideoError: ``too_many_bytes``, ``unsupported_codec`` or ``does_not_decode``.
    """
    found = content(group, key)
    if found is None or not hasattr(found, "nbytes"):
        return None
    if found.nbytes > max_bytes:
        raise VideoError("too_many_bytes", f"an array of {found.nbytes} bytes")
    if filters := _unknown_filters(found):
        detail = f"{key} is compressed with HDF5's filter {filters}, which h5py does not have"
        raise VideoError("unsupported_codec", detail)
    try:
        return np.asarray(found[()])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise VideoError("does_not_decode", f"{key}: {error}") from error
