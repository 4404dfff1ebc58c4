"""Reads LeRobot datasets v2.0 and v2.1: a parquet file per episode, a video per episode and camera.

``meta/info.json`` lists the features, ``meta/episodes.jsonl`` the episodes. Files are found by
listing, not by the path templates of ``info.json``, because those of some public datasets name
folders that do not exist. The pictures of cameras of dtype ``image`` lie in the parquet files.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.preprocess.clip.labels.read import EpisodeLabels, LabelsConfig
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.lerobot.info import INFO, WAY_OUT, LeRobotInfo
from data_pipelines.preprocess.sources.lerobot.pictures import open_rows
from data_pipelines.preprocess.sources.lerobot.tables import (
    Promised,
    label_columns,
    read_columns,
    table_labels,
)
from data_pipelines.preprocess.sources.opened import (
    Opened,
    OpenWith,
    Unusable,
    content_hash,
    probe_file,
)
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split
from lafp.video.decoders.base import VideoError

_BAD_ROW = ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError
_EPISODES = "meta/episodes.jsonl"
_EPISODE_FILE = re.compile(r"episode_(\d+)\.(parquet|mp4)$")


class LeRobotV2:
    """Reads LeRobot v2.0 and v2.1."""

    def list_items(self, info: LeRobotInfo, split: Split | None) -> Iterator[VideoItem]:
        """Yields one item per episode and camera; items with missing files become rejects later."""
        source, cameras = info.source, info.cameras("video")
        tables, videos = _find_files(source, cameras)
        episodes, errors = _episodes(source)
        for number, error in errors.items():
            yield info.bad_row(f"{source.rstrip('/')}/{_EPISODES}#{number}", error, split)
        for episode, lengths in sorted(episodes.items()):
            name = f"episode_{episode:06d}"
            labels_uri = tables.get(episode, storage.join(source, "data", f"{name}.parquet"))
            details = {"version": "v2"} | info.promised(episode, lengths[0])
            refused: Refused | None = None
            if len(set(lengths)) > 1:
                detail = f"meta/episodes.jsonl lists episode {episode} with lengths {lengths}"
                refused = Refused("labels_mismatch", detail)
            for camera in info.cameras("image"):
                yield VideoItem(
                    uri=f"{labels_uri}#{camera}",
                    num_bytes=0,
                    split=split,
                    labels_uri=labels_uri,
                    reader="lerobot",
                    details=details | {"camera": camera, "is_in_rows": True},
                    refused=refused,
                )
            for camera in cameras:
                # An episode without its video stays an input, so that it becomes a reject row with
                # a URI of its own.
                missing = storage.join(source, "videos", "missing", camera, f"{name}.mp4")
                uri, num_bytes = videos.get((camera, episode), (missing, 0))
                yield VideoItem(
                    uri=uri,
                    num_bytes=num_bytes,
                    split=split,
                    labels_uri=labels_uri,
                    reader="lerobot",
                    details=details | {"camera": camera, "is_in_rows": False},
                    refused=refused,
                )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Yields the one video of an item."""
        assert item.labels_uri is not None
        promised, camera = Promised.of(item.details), item.details["camera"]
        if item.details["is_in_rows"]:
            data = storage.read_bytes(item.labels_uri)
            table = _read_table(data, promised, using.labels, camera)
            episode_id = hashlib.sha256(data).hexdigest()[:32]
            yield open_rows(table, camera, promised, item.uri, episode_id, using)
            return
        if not storage.is_file(item.uri):
            detail = f"episode {promised.episode} has no video of {camera}"
            raise VideoError("missing_file", detail)
        try:
            data = storage.read_bytes(item.labels_uri)
        except FileNotFoundError:
            # A missing table costs the labels, not the video: `_read_table` words the reject.
            data = b""
        with storage.local_file(item.uri) as path:
            info = probe_file(path, using.video_decoder, using.max_pixels, using.deadline)
            yield Opened(
                uri=item.uri,
                video_id=content_hash(path),
                episode_id=hashlib.sha256(data).hexdigest()[:32] if data else "",
                num_bytes=item.num_bytes,
                info=info,
                frames=lambda width, height: using.video_decoder.frames(
                    str(path), info, width, height, using.deadline
                ),
                labels=lambda: _read_labels(data, len(info.times_s), promised, using.labels),
            )


def _read_labels(
    data: bytes, num_frames: int, promised: Promised, cfg: LabelsConfig
) -> EpisodeLabels:
    table = _read_table(data, promised, cfg)
    return table_labels(table, num_frames, promised, cfg)


def _read_table(data: bytes, promised: Promised, cfg: LabelsConfig, *more: str) -> pa.Table:
    """Reads the columns of the labels, and those columns in ``more`` that exist."""
    if not data:
        raise VideoError("missing_file", f"episode {promised.episode} has no parquet file")
    try:
        file = pq.ParquetFile(io.BytesIO(data))
    except (pa.ArrowException, ValueError, OSError) as error:  # bytes in memory: not storage
        raise VideoError("no_labels", f"parquet: {error}") from error
    names = file.schema_arrow.names
    wanted = [*label_columns(names, cfg), *(name for name in more if name in names)]
    return read_columns(file, wanted)


def _find_files(
    source: str, cameras: list[str]
) -> tuple[dict[int, str], dict[tuple[str, int], tuple[str, int]]]:
    """Maps episodes to URIs of parquet files; camera and episode to URI and size of videos."""
    tables: dict[int, str] = {}
    videos: dict[tuple[str, int], tuple[str, int]] = {}
    # Files are listed, because ``info.json`` of real datasets names folders and episodes that do
    # not exist.
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


def _episodes(source: str) -> tuple[dict[int, list[int | None]], dict[int, Exception]]:
    """Maps each episode to its lengths, one for each line that lists it; broken lines to errors.

    Raises:
        ConfigError: The list is missing, or none of its lines is an episode.
    """
    uri = storage.join(source, _EPISODES)
    found: dict[int, list[int | None]] = {}
    errors: dict[int, Exception] = {}
    try:
        # Names in a line may hold other characters at which ``splitlines`` would cut it.
        lines = storage.read_text(uri).split("\n")
    except FileNotFoundError:
        raise ConfigError(f"{source} has {INFO} but no {_EPISODES}. {WAY_OUT}") from None
    except ValueError as error:
        raise ConfigError(f"{uri} is not a list of episodes: {error}. {WAY_OUT}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            length = row.get("length")
            length = None if length is None else int(length)
            found.setdefault(int(row["episode_index"]), []).append(length)
        except _BAD_ROW as error:
            errors[number] = error
    if not found:
        cause = next(iter(errors.values()), ValueError("it is empty"))
        raise ConfigError(f"{uri} is not a list of episodes: {cause}. {WAY_OUT}")
    return found, errors
