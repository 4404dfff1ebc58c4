"""Finds trajectories and cameras in an HDF5 file."""

import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

# Members that mark a group as a trajectory, and prefixes of cameras' paths.
_OF_A_TRAJECTORY = {"action", "actions", "observation", "observations"}
_PREFIXES = ("obs/", "observations/images/", "observations/", "observation/", "images/")
_PICTURE_WORDS = ("image", "rgb", "cam", "frame", "pixels")
_NUM_LISTED = 12


@dataclass(frozen=True)
class Camera:
    """Describes one array of pictures in a trajectory."""

    key: str
    """Path inside the trajectory."""
    name: str
    """Name in the video's URI; empty for the only camera of laom's layout."""
    kind: str
    """``raw``, ``encoded`` or ``depth``."""


def outside_name(h5py: ModuleType, file: Any) -> str | None:
    """Returns the name of a link or dataset whose content lies in another file; None without one.

    A file of a stranger could name any file that the worker may read, and its bytes would go into
    the labels. No such link is followed here.
    """

    def is_link_outside(name: str, link: Any) -> str | None:
        return name if isinstance(link, h5py.ExternalLink) else None

    def is_data_outside(name: str, found: Any) -> str | None:
        is_outside = isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)
        return name if is_outside else None

    found: str | None = file.visititems_links(is_link_outside) or file.visititems(is_data_outside)
    return found


def trajectory_names(h5py: ModuleType, file: Any) -> list[str]:
    """Lists the trajectories' groups in numerical order; ``/`` if the file is one trajectory."""
    is_one = any(isinstance(file[name], h5py.Dataset) for name in _members(file))
    if is_one or _OF_A_TRAJECTORY & set(file):
        return ["/"]
    prefix, parent = "", file
    if isinstance(file.get("data"), h5py.Group):  # robomimic
        prefix, parent = "data/", file["data"]
    names = [name for name in _members(parent) if isinstance(parent[name], h5py.Group)]
    # Sorted by length first, so that demo_10 comes after demo_9.
    return [f"{prefix}{name}" for name in sorted(names, key=lambda name: (len(name), name))]


def _members(group: Any) -> list[str]:
    """Lists the names of a group that are not broken links."""
    return [name for name in group if group.get(name) is not None]


def cameras(h5py: ModuleType, group: Any, frames_key: str | None) -> list[Camera]:
    """Lists the cameras of a trajectory, both of colour and of depth."""
    if frames_key is not None or isinstance(group.get("obs"), h5py.Dataset):
        key = frames_key or "obs"
        found = group.get(key)
        kind = _kind(h5py, key, found) if isinstance(found, h5py.Dataset) else ""
        return [Camera(key, "", kind)] if kind else []
    listed: list[Camera] = []

    def look_at(key: str, found: Any) -> None:
        is_next = key.startswith("next_")  # robomimic also stores the pictures of the next step
        if not is_next and isinstance(found, h5py.Dataset) and (kind := _kind(h5py, key, found)):
            prefix = next((p for p in _PREFIXES if key.startswith(p)), "")
            listed.append(Camera(key, key.removeprefix(prefix), kind))

    group.visititems(look_at)
    return sorted(listed, key=lambda camera: camera.name)


def _kind(h5py: ModuleType, key: str, found: Any) -> str:
    name, dtype = key.lower(), found.dtype
    shape: tuple[int, ...] = found.shape or ()
    if dtype == np.uint8 and len(shape) == 4 and shape[-1] == 3:
        return "raw"
    if "depth" in name and len(shape) >= 3:
        return "depth"
    is_bytes = dtype.kind == "S" or h5py.check_vlen_dtype(dtype) in (np.uint8, bytes)
    is_padded = dtype == np.uint8 and len(shape) == 2
    # Byte strings may be anything, for instance instructions. The name must say that they are
    # pictures.
    is_called_so = any(word in name for word in _PICTURE_WORDS)
    return "encoded" if is_called_so and (is_padded or (is_bytes and len(shape) == 1)) else ""


def encoded_pictures(array: np.ndarray) -> list[bytes]:
    """Converts an array of JPEG or PNG pictures, perhaps padded with zeros, to bytes."""
    return [data if isinstance(data, bytes) else np.asarray(data).tobytes() for data in array]


def fps_of(file: Any) -> float | None:
    """Returns the rate given in robomimic's files, or None."""
    try:
        env_args = json.loads(file["data"].attrs["env_args"])
        fps = float(env_args["env_kwargs"]["control_freq"])
    except Exception:  # most files do not have these attributes
        return None
    return fps if 0 < fps < float("inf") else None


def in_words(h5py: ModuleType, group: Any) -> str:
    """Describes the arrays of a group, for a message."""
    listed: list[str] = []

    def look_at(key: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset):
            listed.append(f"{key} {found.dtype} {list(found.shape or ())}")

    group.visititems(look_at)
    more = f" and {len(listed) - _NUM_LISTED} more" if len(listed) > _NUM_LISTED else ""
    return ", ".join(listed[:_NUM_LISTED]) + more or "no arrays"
