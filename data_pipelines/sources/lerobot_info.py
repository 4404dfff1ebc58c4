"""What ``meta/info.json`` says of a LeRobot dataset, whatever its version."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data_pipelines.label_kinds import two_kinds
from data_pipelines.rows import VideoItem
from data_pipelines.stages.read_labels import LabelsConfig
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split

INFO = "meta/info.json"
ACTION_KEY, STATE_KEY = "action", "observation.state"
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
        declared = {name: self.num_values(name) for name in self.features}
        return {
            "episode": episode,
            "length": length,
            "fps": self.fps,
            "num_values": {name: n for name, n in declared.items() if n is not None},
        }

    def kind(self, cfg: LabelsConfig) -> str | None:
        """Sizes of its actions and states in words; None where they are not declared."""
        action = [self.num_values(key) for key in cfg.action_names(ACTION_KEY)]
        state = [self.num_values(key) for key in cfg.state_names(STATE_KEY)]
        if any(size is None for size in action):
            return None
        states = "" if None in state else f", states of {sum(size or 0 for size in state)}"
        return f"actions of {sum(size or 0 for size in action)} numbers{states}"

    def num_values(self, key: str) -> int | None:
        """How many numbers a row of a column has, as declared; None where nothing is."""
        feature = self.features.get(key, {})
        shape = feature.get("shape")
        if (
            feature.get("dtype") in ("video", "image", "string")
            or not isinstance(shape, list)
            or not all(isinstance(n, int) for n in shape)
        ):
            return None
        total = 1
        for size in shape:
            total *= size
        return total


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


def check_one_robot(sources: Sequence[str], cfg: LabelsConfig) -> None:
    """Checks that actions and states of several datasets have one size, as far as they say.

    Raises:
        ConfigError: They do not; it names two of them.
    """
    first: tuple[str, str] | None = None
    for source in sources:
        try:
            info = read_info(source)
        except ConfigError:  # whoever lists it will say so
            continue
        if info is None or (kind := info.kind(cfg)) is None:
            continue
        first = first or (source, kind)
        if kind != first[1]:
            raise ConfigError(two_kinds(*first, source, kind))


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
