"""Finds trajectories and cameras in an HDF5 file."""

import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from data_pipelines.preprocess.clip.labels.read import is_plausible_step
from data_pipelines.preprocess.sources.hdf5.members import content, names, walk

# Members that mark a group as a trajectory, and prefixes of cameras' paths.
_OF_A_TRAJECTORY = frozenset({"action", "actions", "obs", "observation", "observations"})
_PREFIXES = ("obs/", "observations/images/", "observations/", "observation/", "images/")
_PICTURE_WORDS = ("image", "rgb", "cam", "frame", "pixels")
_MAX_DEPTH = 16


@dataclass(frozen=True)
class Camera:
    """Describes one array of pictures in a trajectory."""

    key: str
    """Path inside the trajectory."""
    name: str
    """Name in the video's URI; empty for the only camera of laom's layout."""
    kind: str
    """``raw``, ``encoded``, ``depth``, ``other`` (pictures of another form) or ``lost`` (what has
    the name of a camera cannot be opened)."""


def trajectory_names(h5py: ModuleType, file: Any) -> list[str]:
    """Lists the trajectories' groups at any depth, in numerical order; ``/`` is the whole file.

    Groups beside a trajectory are taken for trajectories too, so that an empty one is a reject.
    Elsewhere, groups with pictures are.
    """
    if found := _trajectories(h5py, file, "", set()):
        return found
    # No group has one of the usual names.
    if any(isinstance(content(file, name), h5py.Dataset) for name in names(file)):
        return ["/"]
    prefix = "data/" if isinstance(content(file, "data"), h5py.Group) else ""
    parent = file["data"] if prefix else file
    groups = [name for name in names(parent) if isinstance(content(parent, name), h5py.Group)]
    return [prefix + name for name in _ordered(groups)] or ["/"]


def _trajectories(h5py: ModuleType, group: Any, path: str, seen: set[Any]) -> list[str]:
    if _OF_A_TRAJECTORY.intersection(names(group)):
        return [path or "/"]
    if group.id in seen or path.count("/") == _MAX_DEPTH:
        return []
    seen.add(group.id)  # links may go in circles
    below: dict[str, list[str]] = {}
    for name in _ordered(names(group)):
        key, found = f"{path}/{name}" if path else name, content(group, name)
        if found is None or (isinstance(found, h5py.Group) and found.id not in seen):
            below[key] = _trajectories(h5py, found, key, seen) if found is not None else []
    is_among_trajectories = any(found == [key] for key, found in below.items())
    listed: list[str] = []
    for key, found in below.items():
        if not found and (is_among_trajectories or _has_cameras(h5py, group, key)):
            found = [key]
        listed += found
    return listed


def _has_cameras(h5py: ModuleType, parent: Any, key: str) -> bool:
    group = content(parent, key.rpartition("/")[2])
    return group is not None and bool(cameras(h5py, group, None))


def _ordered(listed: list[str]) -> list[str]:
    # Sorted by length first, so that demo_10 comes after demo_9.
    return sorted(listed, key=lambda name: (len(name), name))


def cameras(h5py: ModuleType, group: Any, frames_key: str | None) -> list[Camera]:
    """Lists the cameras of a trajectory, also those of depth and those that cannot be read."""
    if frames_key is not None or isinstance(content(group, "obs"), h5py.Dataset):
        key = frames_key or "obs"
        kind = _kind(h5py, key, content(group, key))
        return [Camera(key, "", kind)] if kind else []
    listed: list[Camera] = []
    # A link may lead to other trajectories, whose pictures do not belong to the actions of this
    # one.
    for key, found in walk(h5py, group, _OF_A_TRAJECTORY):
        is_next = key.startswith("next_")  # robomimic also stores the pictures of the next step
        if not is_next and (kind := _kind(h5py, key, found)):
            prefix = next((p for p in _PREFIXES if key.startswith(p)), "")
            listed.append(Camera(key, key.removeprefix(prefix), kind))
    return sorted(listed, key=lambda camera: camera.name)


def _kind(h5py: ModuleType, key: str, found: Any) -> str:
    """Returns the kind of a camera; empty for what is none."""
    is_called_so = any(word in key.lower() for word in _PICTURE_WORDS)
    if found is None:
        return "lost" if is_called_so or key.startswith(_PREFIXES) else ""
    if not isinstance(found, h5py.Dataset):
        return ""
    dtype = found.dtype
    shape: tuple[int, ...] = found.shape or ()
    if dtype == np.uint8 and len(shape) == 4 and shape[-1] == 3:
        return "raw"
    if "depth" in key.lower() and len(shape) >= 3:
        return "depth"
    is_bytes = dtype.kind in "SV" and dtype.names is None
    is_bytes |= h5py.check_vlen_dtype(dtype) in (np.uint8, np.int8, bytes)
    is_padded = dtype == np.uint8 and len(shape) == 2
    # Byte strings may be anything, for instance instructions. The name must say that they are
    # pictures.
    if is_called_so and (is_padded or (is_bytes and len(shape) == 1)):
        return "encoded"
    is_picture = dtype == np.uint8 or (is_called_so and dtype.kind in "fiu")
    return "other" if is_picture and len(shape) >= 3 else ""


def encoded_pictures(array: np.ndarray) -> list[bytes]:
    """Converts an array of JPEG or PNG pictures, perhaps padded with zeros, to bytes."""
    return [data if isinstance(data, bytes) else np.asarray(data).tobytes() for data in array]


def fps_of(file: Any) -> float | None:
    """Returns the rate given in robomimic's files, or None."""
    try:
        env_args = json.loads(file["data"].attrs["env_args"])
        fps = float(env_args["env_kwargs"]["control_freq"])
        return fps if is_plausible_step(1 / fps) else None
    except Exception:  # most files do not have these attributes
        return None
