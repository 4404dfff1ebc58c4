"""What ``meta/info.json`` says of a LeRobot dataset, whatever its version."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_pipelines.preprocess.rows import VideoItem
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split

INFO = "meta/info.json"
# Versions before 2.0 kept it elsewhere.
_OLD_INFO = "meta_data/info.json"
READ_MAJORS, READ_VERSIONS = ("v2", "v3"), "v2.0, v2.1 and v3.0"


@dataclass(frozen=True, kw_only=True)
class LeRobotInfo:
    """One dataset's description."""

    source: str
    version: str
    """``codebase_version``: ``v2.1``."""
    fps: float | None
    """Rate of its rows and videos; None where it does not say."""
    features: dict[str, dict[str, Any]]
    paths: dict[str, str]
    """Templates ``data_path`` and ``video_path``, where it has them."""

    def cameras(self, dtype: str) -> list[str]:
        """Its colour cameras whose feature has this dtype, ``video`` or ``image``."""
        return sorted(
            key
            for key, feature in self.features.items()
            if feature.get("dtype") == dtype and not _is_depth(feature)
        )

    def depth_items(self, split: Split | None) -> Iterator[VideoItem]:
        """One reject for each camera of depth maps: they are no colour pictures.

        Raises:
            ConfigError: There is no other camera.
        """
        if not self.cameras("video") and not self.cameras("image"):
            raise ConfigError(
                f"{self.source} has no camera: no feature in {INFO} has dtype video or image and "
                "holds colours."
            )
        for key, feature in sorted(self.features.items()):
            if feature.get("dtype") in ("video", "image") and _is_depth(feature):
                yield VideoItem(
                    uri=f"{self.source.rstrip('/')}/{INFO}#{key}",
                    num_bytes=0,
                    split=split,
                    details={"reject": ["depth", f"{key} holds depth maps, says {INFO}"]},
                )

    def promised(self, episode: int, length: int | None) -> dict[str, Any]:
        """What ``lerobot_tables.Promised`` holds, ready for JSON."""
        return {"episode": episode, "length": length, "fps": self.fps}


def read_info(source: str) -> LeRobotInfo | None:
    """``meta/info.json``, if the source has one.

    Raises:
        ConfigError: It is not what LeRobot writes.
    """
    uri = storage.join(source, INFO)
    if not storage.is_file(uri):
        uri = storage.join(source, _OLD_INFO)
        if not storage.is_file(uri):
            return None
    try:
        raw = json.loads(storage.read_text(uri))
    except ValueError as error:
        raise ConfigError(f"{uri} is no JSON: {error}.") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{uri} must be a JSON object, got {type(raw).__name__}.")
    features, fps = raw.get("features"), raw.get("fps")
    if not isinstance(features, dict):
        features = {}
    return LeRobotInfo(
        source=source,
        version=str(raw.get("codebase_version", "without a codebase_version")),
        fps=float(fps) if isinstance(fps, int | float) and 0 < fps < float("inf") else None,
        features={key: value for key, value in features.items() if isinstance(value, dict)},
        paths={
            key: raw[key] for key in ("data_path", "video_path") if isinstance(raw.get(key), str)
        },
    )


def has_version(source: str, major: str) -> bool:
    """Whether the source is a dataset of a major version, such as ``v2``."""
    info = read_info(source)
    return info is not None and info.version.split(".")[0] == major


def _is_depth(feature: dict[str, Any]) -> bool:
    more = [feature.get(key) for key in ("info", "video_info")]
    return any(
        part.get(name) is True
        for part in [feature, *(part for part in more if isinstance(part, dict))]
        for name in ("video.is_depth_map", "is_depth_map")
    )
