"""LeRobot datasets v2.0 and v2.1: one parquet file per episode, one video per episode and camera.

``meta/info.json`` says what there may be, ``meta/episodes.jsonl`` which episodes there are. Their
files are found by listing, not by the path templates of ``info.json``: those of some public
datasets name folders that do not exist.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.rows import VideoItem
from data_pipelines.sources.opened import Opened, OpenWith, content_hash, probe_file
from data_pipelines.stages.read_labels import EpisodeLabels, LabelsConfig, episode_labels
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split
from lafp.video.decoder import VideoError

INFO = "meta/info.json"
ACTION_KEY, STATE_KEY = "action", "observation.state"
_EPISODE_FILE = re.compile(r"episode_(\d+)\.(parquet|mp4)$")


class LeRobotV2:
    """Reads LeRobot v2.0 and v2.1."""

    def is_at(self, source: str) -> bool:
        """Whether there is a ``meta/info.json`` of version 2."""
        info = read_info(source)
        return info is not None and str(info.get("codebase_version", "")).startswith("v2")

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """One item per episode and camera; those whose files are missing too, to be rejected."""
        info = read_info(source)
        assert info is not None
        cameras = camera_keys(info, source)
        tables, videos = _find_files(source, cameras)
        for episode in _episodes(source):
            for camera in cameras:
                name = f"episode_{episode:06d}"
                missing = storage.join(source, "videos", "missing", camera, f"{name}.mp4")
                uri, num_bytes = videos.get((camera, episode), (missing, 0))
                labels_uri = tables.get(episode, storage.join(source, "data", f"{name}.parquet"))
                yield VideoItem(
                    uri=uri,
                    num_bytes=num_bytes,
                    split=split,
                    labels_uri=labels_uri,
                    reader="lerobot_v2",
                    details={"episode": episode, "camera": camera},
                )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened]:
        """The one video of an item."""
        assert item.labels_uri is not None
        episode, camera = item.details["episode"], item.details["camera"]
        if not storage.is_file(item.uri):
            raise VideoError("missing_file", f"episode {episode} has no video of {camera}")
        try:
            table = storage.read_bytes(item.labels_uri)
        except FileNotFoundError:
            table = b""
        with storage.local_file(item.uri) as path:
            info = probe_file(path, using.decoder, using.max_pixels, using.deadline)
            yield Opened(
                uri=item.uri,
                video_id=content_hash(path),
                episode_id=hashlib.sha256(table).hexdigest()[:32] if table else "",
                num_bytes=item.num_bytes,
                info=info,
                frames=lambda width, height: using.decoder.frames(
                    str(path), info, width, height, using.deadline
                ),
                labels=lambda: _read_labels(table, episode, using.labels),
            )


def read_info(source: str) -> dict[str, Any] | None:
    """``meta/info.json``, if the source has one."""
    uri = storage.join(source, INFO)
    if not storage.is_file(uri):
        return None
    try:
        return dict(json.loads(storage.read_text(uri)))
    except ValueError as error:
        raise ConfigError(f"{uri} is no JSON: {error}.") from None


def camera_keys(info: dict[str, Any], source: str) -> list[str]:
    """The features that are videos.

    Raises:
        ConfigError: There is none.
    """
    features = info.get("features", {})
    cameras = sorted(key for key, feature in features.items() if feature.get("dtype") == "video")
    if not cameras:
        raise ConfigError(f"{source} has no camera: no feature in {INFO} has dtype video.")
    return cameras


def table_labels(table: pa.Table, cfg: LabelsConfig) -> EpisodeLabels:
    """The labels in one episode's rows.

    An episode's clock begins with its first row, as its video does with its first frame: that of
    some datasets reads one step there.

    Raises:
        VideoError: ``no_labels``.
    """
    action_key, state_key = cfg.action_key or ACTION_KEY, cfg.state_key or STATE_KEY
    action = _column(table, action_key)
    if action.dtype.kind == "i" and action.shape[1:] == (1,):
        action = action[:, 0]  # discrete
    state = _column(table, state_key) if state_key in table.column_names else None
    times_s = _column(table, cfg.time_key)[:, 0] if cfg.time_key in table.column_names else None
    if times_s is not None and len(times_s):
        times_s = times_s.astype(np.float64) - float(times_s[0])
    return episode_labels(action, state, times_s)


def label_columns(names: list[str], cfg: LabelsConfig) -> list[str]:
    """Those of a file's columns that ``table_labels`` wants.

    Raises:
        VideoError: ``no_labels``: there is no action.
    """
    action_key = cfg.action_key or ACTION_KEY
    if action_key not in names:
        raise VideoError("no_labels", f"no column {action_key!r} among {', '.join(names)}")
    return [key for key in (action_key, cfg.state_key or STATE_KEY, cfg.time_key) if key in names]


def _read_labels(table: bytes, episode: int, cfg: LabelsConfig) -> EpisodeLabels:
    if not table:
        raise VideoError("missing_file", f"episode {episode} has no parquet file")
    try:
        file = pq.ParquetFile(io.BytesIO(table))
        return table_labels(file.read(label_columns(file.schema_arrow.names, cfg)), cfg)
    except (pa.ArrowException, ValueError, OSError) as error:  # all of them from bytes in memory
        raise VideoError("no_labels", f"parquet: {error}") from error


def _column(table: pa.Table, name: str) -> np.ndarray:
    """[T, ...] of numbers; scalars become [T, 1]."""
    rows = np.asarray(table[name].to_pylist())
    if rows.dtype.kind not in "fiub":
        raise VideoError("no_labels", f"column {name!r} is not numbers of one shape")
    return rows[:, None] if rows.ndim == 1 else rows


def _find_files(
    source: str, cameras: list[str]
) -> tuple[dict[int, str], dict[tuple[str, int], tuple[str, int]]]:
    """Episode -> URI of its parquet file; camera and episode -> URI and size of its video."""
    tables: dict[int, str] = {}
    videos: dict[tuple[str, int], tuple[str, int]] = {}
    for folder in ("data", "videos"):
        uri = storage.join(source, folder)
        for file in storage.list_files(uri):
            match = _EPISODE_FILE.search(file.uri)
            if match and match[2] == "parquet":
                tables[int(match[1])] = file.uri
            elif match:
                parts = file.uri.removeprefix(uri).split("/")
                for camera in set(cameras) & set(parts):
                    videos[camera, int(match[1])] = file.uri, file.num_bytes
    return tables, videos


def _episodes(source: str) -> list[int]:
    uri = storage.join(source, "meta/episodes.jsonl")
    try:
        lines = storage.read_text(uri).splitlines()
        return sorted(int(json.loads(line)["episode_index"]) for line in lines if line.strip())
    except FileNotFoundError:
        raise ConfigError(f"{source} has {INFO} but no meta/episodes.jsonl.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{uri} is not a list of episodes: {error}.") from None
