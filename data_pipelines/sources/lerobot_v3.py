"""LeRobot datasets v3.0: episodes concatenated in files.

``meta/episodes/**.parquet`` has a row per episode: which parquet file holds its rows, and for each
camera which video file, and from when to when. One item is one video file, fetched and decoded once
for all of its episodes.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.rows import VideoItem
from data_pipelines.sources.lerobot_v2 import (
    INFO,
    camera_keys,
    label_columns,
    read_info,
    table_labels,
)
from data_pipelines.sources.opened import Opened, OpenWith, Unusable, content_hash, probe_file
from data_pipelines.stages.read_labels import EpisodeLabels, LabelsConfig
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shard_format import Split
from lafp.video.decoder import DamagedSpan, DecodedFrame, VideoError, VideoInfo

_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODE = "episode_index"


class LeRobotV3:
    """Reads LeRobot v3.0."""

    def is_at(self, source: str) -> bool:
        """Whether there is a ``meta/info.json`` of version 3."""
        info = read_info(source)
        return info is not None and str(info.get("codebase_version", "")).startswith("v3")

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """One item per video file with episodes in it; missing files too, to be rejected."""
        info = read_info(source)
        assert info is not None
        spans: dict[str, list[dict[str, Any]]] = defaultdict(list)
        try:
            for uri, span in _list_spans(source, info):
                spans[uri].append(span)
        except (KeyError, TypeError, ValueError, OSError) as error:
            if isinstance(error, storage.StorageError):
                raise
            raise ConfigError(f"{source}/meta/episodes is not as in v3.0: {error!r}.") from None
        if not spans:
            raise ConfigError(f"{source} has {INFO} but no episodes in meta/episodes.")
        files = storage.list_files(storage.join(source, "videos"))
        sizes = {file.uri: file.num_bytes for file in files}
        for uri in sorted(spans):
            yield VideoItem(
                uri=uri,
                num_bytes=sizes.get(uri, 0),
                split=split,
                labels_uri=spans[uri][0]["data_uri"],
                reader="lerobot_v3",
                details={"episodes": sorted(spans[uri], key=lambda span: span["from_s"])},
            )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """The episodes in one video file, in their order there."""
        spans = item.details["episodes"]
        if not storage.is_file(item.uri):
            for span in spans:
                uri = f"{item.uri}#{span['episode']}"
                yield Unusable(uri, "missing_file", "its video file is not there")
            return
        read_table = cache(partial(_read_table, cfg=using.labels))
        with storage.local_file(item.uri) as path:
            file_id = content_hash(path)
            info = probe_file(path, using.decoder, using.max_pixels, using.deadline)
            shared = _SharedFrames(str(path), info, using)
            for span in spans:
                uri = f"{item.uri}#{span['episode']}"
                part = _part_of(info, span)
                if part is None:
                    yield Unusable(uri, "no_frames", f"{info.duration_s:.3f} s, in it {span}")
                    continue
                start_s, part_info = part
                labels = partial(_labels, span, read_table, using.labels)
                yield Opened(
                    uri=uri,
                    video_id=_hash(f"{file_id} {round(1000 * start_s)} {part_info.duration_s:.3f}"),
                    episode_id=_episode_id(span, read_table),
                    num_bytes=item.num_bytes * len(part_info.times_s) // len(info.times_s),
                    info=part_info,
                    frames=partial(shared.frames, start_s, part_info),
                    labels=labels,
                )


def _list_spans(source: str, info: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Per episode and camera: URI of the video file, and where in it the episode is."""
    cameras = camera_keys(info, source)
    keys = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns = [_EPISODE, "data/chunk_index", "data/file_index"]
    columns += [f"videos/{camera}/{key}" for camera in cameras for key in keys]
    for file in storage.list_files(storage.join(source, "meta/episodes")):
        table = pq.read_table(io.BytesIO(storage.read_bytes(file.uri)), columns=columns)
        for row in table.to_pylist():
            data_path = (info.get("data_path") or _DATA_PATH).format(
                chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
            )
            for camera in cameras:
                chunk, number, from_s, to_s = (row[f"videos/{camera}/{key}"] for key in keys)
                path = (info.get("video_path") or _VIDEO_PATH).format(
                    video_key=camera, chunk_index=chunk, file_index=number
                )
                yield (
                    storage.join(source, path),
                    {
                        "episode": int(row[_EPISODE]),
                        "from_s": float(from_s),
                        "to_s": float(to_s),
                        "data_uri": storage.join(source, data_path),
                    },
                )


def _part_of(info: VideoInfo, span: dict[str, Any]) -> tuple[float, VideoInfo] | None:
    """When the episode's first frame is shown in the file, and the episode as a video."""
    # Bounds are sums of rounded durations: half a frame early still counts.
    early_s = info.first_pts_s + 0.5 / info.fps
    from_s, to_s = span["from_s"] - early_s, span["to_s"] - early_s
    times_s = info.times_s[(info.times_s >= from_s) & (info.times_s < to_s)]
    if not len(times_s):
        return None
    start_s = float(times_s[0])
    promised_s = span["to_s"] - info.first_pts_s - start_s
    duration_s = min(promised_s, info.duration_s - start_s)
    part = replace(
        info,
        times_s=times_s - start_s,
        duration_s=duration_s,
        declared_duration_s=max(promised_s, duration_s),
    )
    return start_s, part


class _SharedFrames:
    """One pass over a file for all of its episodes, asked for in order."""

    def __init__(self, path: str, info: VideoInfo, using: OpenWith) -> None:
        self._path, self._info, self._using = path, info, using
        self._events: Iterator[DecodedFrame | DamagedSpan] | None = None
        self._ahead: DecodedFrame | DamagedSpan | None = None
        """Was read, but belongs to a later episode too."""
        self._error: VideoError | None = None

    def frames(
        self, start_s: float, part: VideoInfo, width_px: int, height_px: int
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        """What a decoder would yield of the episode alone."""
        slack_s = 0.25 / self._info.fps
        end_s = start_s + part.duration_s
        while (event := self._next(width_px, height_px)) is not None:
            if isinstance(event, DecodedFrame):
                if event.time_s > end_s - slack_s:
                    self._ahead = event
                    return
                if event.time_s >= start_s - slack_s:
                    yield DecodedFrame(max(event.time_s - start_s, 0.0), event.pixels)
            else:
                low_s, high_s = max(event.start_s, start_s), min(event.end_s, end_s)
                if event.end_s > end_s:
                    self._ahead = event
                if high_s > low_s:
                    yield DamagedSpan(low_s - start_s, high_s - start_s, event.detail)
                if event.end_s > end_s:
                    return

    def _next(self, width_px: int, height_px: int) -> DecodedFrame | DamagedSpan | None:
        if self._ahead is not None:
            event, self._ahead = self._ahead, None
            return event
        if self._error is not None:
            raise self._error  # of this file, hence of every later episode in it
        if self._events is None:
            self._events = self._using.decoder.frames(
                self._path, self._info, width_px, height_px, self._using.deadline
            )
        try:
            return next(self._events, None)
        except VideoError as error:
            self._error = error
            raise


def _labels(span: dict[str, Any], read_table: Any, cfg: LabelsConfig) -> EpisodeLabels:
    table = read_table(span["data_uri"])
    if isinstance(table, VideoError):
        raise table
    _, rows = table
    return table_labels(rows.filter(pc.equal(rows[_EPISODE], span["episode"])), cfg)


def _episode_id(span: dict[str, Any], read_table: Any) -> str:
    table = read_table(span["data_uri"])
    return "" if isinstance(table, VideoError) else _hash(f"{table[0]} {span['episode']}")


def _read_table(uri: str, cfg: LabelsConfig) -> tuple[str, pa.Table] | VideoError:
    """Hash of the file, and the columns that are wanted; or what is wrong with it."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        return VideoError("missing_file", f"no {uri}")
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        columns = label_columns(file.schema_arrow.names, cfg)
        return hashlib.sha256(data).hexdigest(), file.read([*columns, _EPISODE])
    except VideoError as error:
        return error
    except (pa.ArrowException, ValueError, OSError) as error:  # all of them from bytes in memory
        return VideoError("no_labels", f"parquet: {error}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
