"""Reads ``meta/info.json`` of a LeRobot dataset of any version."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from data_pipelines.preprocess.faults import rejected_item, storable_text
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.rows import VideoItem
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split

INFO = "meta/info.json"
# Versions before 2.0 kept the file elsewhere.
_OLD_INFO = "meta_data/info.json"
_MAX_FPS = 1e6
_FIELD = re.compile(r"\{(\w+)(?::0(\d)d)?\}")

WAY_OUT = "Copy the dataset again, or leave `labels` out and use its videos alone."
"""Ends the message about a dataset that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class LeRobotInfo:
    """Holds the description of one dataset."""

    source: str
    version: str
    """``codebase_version``, e.g. ``v2.1``."""
    fps: float | None
    """Rate of its rows and videos; None if the file does not give one."""
    features: dict[str, dict[str, Any]]
    paths: dict[str, str]
    """Templates ``data_path`` and ``video_path``, if the file has them."""

    @property
    def major(self) -> str:
        """Returns the major version, e.g. ``v2``."""
        return self.version.split(".")[0]

    def cameras(self, dtype: str) -> list[str]:
        """Lists the colour cameras whose feature has this dtype, ``video`` or ``image``."""
        return sorted(
            key
            for key, feature in self.features.items()
            if feature.get("dtype") == dtype and not _is_depth(feature)
        )

    def depth_items(self, split: Split | None) -> Iterator[VideoItem]:
        """Yields one reject for each camera of depth maps, which are not colour pictures.

        Raises:
            ConfigError: There is no other camera.
        """
        if not self.cameras("video") and not self.cameras("image"):
            raise ConfigError(
                f"{self.source} has no colour camera: no feature in {INFO} has dtype video or image"
                " and is not a depth map."
            )
        for key, feature in sorted(self.features.items()):
            if feature.get("dtype") in ("video", "image") and _is_depth(feature):
                why = Refused("depth", f"{key} holds depth maps, according to {INFO}")
                yield rejected_item(f"{self.source.rstrip('/')}/{INFO}#{key}", split, why)

    def bad_row(self, where: str, error: Exception, split: Split | None) -> VideoItem:
        """Makes one reject of a row of the index of episodes that cannot be read."""
        detail = f"it is no row of an episode: {type(error).__name__}: {error}"
        return rejected_item(where, split, Refused("bad_entry", detail))

    def promised(self, episode: int, length: int | None) -> dict[str, object]:
        """Returns the fields of ``tables.Promised``, ready for JSON."""
        return {"episode": episode, "length": length, "fps": self.fps}


def has_info(source: str) -> bool:
    """Says whether a folder is a dataset, perhaps a broken one or of a version that is not read."""
    try:
        return any(storage.is_file(storage.join(source, name)) for name in (INFO, _OLD_INFO))
    except storage.AccessDeniedError:  # the folder's files become reject rows
        return False


def read_info(source: str) -> LeRobotInfo:
    """Reads ``meta/info.json`` of a dataset.

    Raises:
        ConfigError: It is not what LeRobot writes.
    """
    uri = storage.join(source, INFO)
    if not storage.is_file(uri):
        uri = storage.join(source, _OLD_INFO)
    try:
        raw = json.loads(storage.read_text(uri))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{uri} is not valid JSON: {error}. {WAY_OUT}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{uri} must be a JSON object, got {type(raw).__name__}. {WAY_OUT}")
    features, fps = raw.get("features"), raw.get("fps")
    if not isinstance(features, dict):
        features = {}
    return LeRobotInfo(
        source=source,
        version=storable_text(str(raw.get("codebase_version", "without a codebase_version"))),
        fps=float(fps) if isinstance(fps, int | float) and 0 < fps < _MAX_FPS else None,
        # JSON can escape half of a surrogate pair, and these names go into URIs.
        features={
            storable_text(key): value for key, value in features.items() if isinstance(value, dict)
        },
        paths={
            key: storable_text(raw[key])
            for key in ("data_path", "video_path")
            if isinstance(raw.get(key), str)
        },
    )


def fill_template(template: str, **values: str | int) -> str:
    """Returns the path below the dataset that a template of ``info.json`` gives.

    ``str.format`` would let the template of a stranger ask for text of any length.

    Raises:
        ValueError: It is no such template, or the path leads out of the dataset.
    """

    def filled(found: re.Match[str]) -> str:
        value = values.get(found[1])
        if value is None:
            raise ValueError(
                f"the path template {template[:200]!r} has the unknown field {found[1]}"
            )
        return str(value).zfill(int(found[2] or 0))

    if "{" in _FIELD.sub("", template) or "}" in _FIELD.sub("", template):
        raise ValueError(f"{template[:200]!r} is no path template")
    path = _FIELD.sub(filled, template)
    if ".." in path.split("/"):
        raise ValueError(f"the path {path[:200]!r} leads out of the dataset")
    return path


def _is_depth(feature: Mapping[str, object]) -> bool:
    more = [feature.get(key) for key in ("info", "video_info")]
    return any(
        part.get(name) is True
        for part in [feature, *(part for part in more if isinstance(part, dict))]
        for name in ("video.is_depth_map", "is_depth_map")
    )
