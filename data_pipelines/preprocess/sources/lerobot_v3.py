"""Reads LeRobot datasets v3.0, in which episodes are concatenated in files.

``meta/episodes/**.parquet`` has a row per episode, which names the parquet file of its rows and,
for each camera, the video file and the span in it. One item is one video file, which is fetched and
decoded once for all of its episodes.
"""

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.preprocess.clip.labels.read import EpisodeLabels, LabelsConfig
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.lerobot_info import (
    INFO,
    LeRobotInfo,
    fill_template,
    has_version,
    read_info,
)
from data_pipelines.preprocess.sources.lerobot_pictures import open_rows
from data_pipelines.preprocess.sources.lerobot_spans import Place, Span, place_episodes
from data_pipelines.preprocess.sources.lerobot_tables import (
    EPISODE_INDEX,
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
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError, VideoInfo

_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


class LeRobotV3:
    """Reads LeRobot v3.0."""

    def is_at(self, source: str) -> bool:
        """Says whether there is a ``meta/info.json`` of version 3."""
        return has_version(source, "v3")

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Yields one item per video file with episodes; missing files become rejects later."""
        info = read_info(source)
        assert info is not None
        yield from info.depth_items(split)
        spans: dict[str, list[Span]] = defaultdict(list)
        found, errors = _list_spans(info)
        for where, error in errors.items():
            yield info.bad_row(where, error, split)
        for (episode, camera), listed in sorted(found.items()):
            if len(listed) > 1:
                detail = f"meta/episodes has {len(listed)} different rows of episode {episode}"
                yield VideoItem(
                    uri=f"{listed[0][0]}#{episode}/{camera}",
                    num_bytes=0,
                    split=split,
                    details={"reject": ["labels_mismatch", detail]},
                )
            else:
                spans[listed[0][0]].append(listed[0][1])
        files = storage.list_files(storage.join(source, "videos"))
        sizes = {file.uri: file.num_bytes for file in files}
        for uri in sorted(spans):
            yield VideoItem(
                uri=uri,
                num_bytes=sizes.get(uri, 0),
                split=split,
                labels_uri=spans[uri][0]["data_uri"],
                reader="lerobot_v3",
                details={
                    # ``_SharedFrames`` decodes the file once, and so must serve episodes in its
                    # order.
                    "episodes": sorted(spans[uri], key=_by_time),
                    "camera_in_rows": spans[uri][0]["camera_in_rows"],
                },
            )

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Yields the episodes in one file of video, or of rows with pictures, in file order."""
        spans = item.details["episodes"]
        if item.details["camera_in_rows"]:
            yield from _open_rows(item, using)
            return
        if not storage.is_file(item.uri):
            for span in spans:
                uri = f"{item.uri}#{span['episode']}"
                yield Unusable(uri, "missing_file", "its video file is missing")
            return
        # Many episodes share a table, which is read once per video file.
        read_table = cache(partial(_read_table, cfg=using.labels))
        with storage.local_file(item.uri) as path:
            file_id = content_hash(path)
            info = probe_file(path, using.decoder, using.max_pixels, using.deadline)
            shared = _SharedFrames(str(path), info, using)
            for span, place in zip(spans, place_episodes(spans, info), strict=True):
                uri = f"{item.uri}#{span['episode']}"
                if isinstance(place, VideoError):
                    yield Unusable(uri, place.reason, f"episode {span['episode']}: {place.detail}")
                    continue
                start_s, part = _part_of(info, place, span)
                yield Opened(
                    uri=uri,
                    # The content of the file and the place in it, because the episode has no bytes
                    # of its own.
                    video_id=_hash(f"{file_id} {round(1000 * start_s)} {part.duration_s:.3f}"),
                    episode_id=_episode_id(span, read_table),
                    num_bytes=item.num_bytes * len(part.times_s) // len(info.times_s),
                    info=part,
                    frames=partial(shared.frames, start_s, part),
                    labels=partial(_labels, span, len(part.times_s), read_table, using.labels),
                )


def _list_spans(
    info: LeRobotInfo,
) -> tuple[dict[tuple[int, str], list[tuple[str, Span]]], dict[str, Exception]]:
    """Maps episode and camera to the URI of the video file and the episode's span in it.

    An entry holds several spans only if rows of one episode differ. Files and rows of the index
    that cannot be read are mapped to their errors, by URI.

    Raises:
        ConfigError: ``meta/episodes`` holds something else.
    """
    found: dict[tuple[int, str], list[tuple[str, Span]]] = defaultdict(list)
    errors: dict[str, Exception] = {}
    for where, row in _index_rows(info):
        if isinstance(row, Exception):
            errors[where] = row
            continue
        for camera in (*info.cameras("video"), *info.cameras("image")):
            try:
                episode, span = _whole(row[EPISODE_INDEX]), _span(row, camera, info)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                errors[f"{where}/{camera}"] = error
                continue
            # Writers repeat rows. Equal ones are one span.
            if span not in found[episode, camera]:
                found[episode, camera].append(span)
    if not found and errors:
        where, cause = next(iter(errors.items()))
        raise ConfigError(f"{where} is not as in v3.0: {cause!r}.")
    if not found:
        raise ConfigError(f"{info.source} has {INFO} but no episodes in meta/episodes.")
    return found, errors


def _index_rows(info: LeRobotInfo) -> Iterator[tuple[str, dict[str, Any] | Exception]]:
    """Yields the URI and the content of each row of the index, or the error of a whole file."""
    keys = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    columns = [EPISODE_INDEX, "length", "data/chunk_index", "data/file_index"]
    columns += [f"videos/{camera}/{key}" for camera in info.cameras("video") for key in keys]
    for file in storage.list_files(storage.join(info.source, "meta/episodes")):
        data = io.BytesIO(storage.read_bytes(file.uri))
        try:
            rows = pq.read_table(data, columns=columns).to_pylist()
        # The bytes are in memory, so storage raises nothing here. Python has no dates after the
        # year 9999, and so on.
        except (ArithmeticError, LookupError, ValueError, OSError, pa.ArrowException) as error:
            yield file.uri, error
            continue
        yield from ((f"{file.uri}#{number}", row) for number, row in enumerate(rows))


def _span(row: dict[str, Any], camera: str, info: LeRobotInfo) -> tuple[str, Span]:
    data_path = fill_template(
        info.paths.get("data_path", _DATA_PATH),
        chunk_index=_whole(row["data/chunk_index"]),
        file_index=_whole(row["data/file_index"]),
    )
    length = row.get("length")
    span: Span = info.promised(
        _whole(row[EPISODE_INDEX]), None if length is None else _whole(length)
    )
    span["data_uri"] = storage.join(info.source, data_path)
    if camera in info.cameras("image"):
        span |= {"from_s": None, "to_s": None, "camera_in_rows": camera}
        return f"{span['data_uri']}#{camera}", span
    path = fill_template(
        info.paths.get("video_path", _VIDEO_PATH),
        video_key=camera,
        chunk_index=_whole(row[f"videos/{camera}/chunk_index"]),
        file_index=_whole(row[f"videos/{camera}/file_index"]),
    )
    return storage.join(info.source, path), span | {
        "from_s": _seconds(row[f"videos/{camera}/from_timestamp"]),
        "to_s": _seconds(row[f"videos/{camera}/to_timestamp"]),
        "camera_in_rows": "",
    }


def _whole(value: Any) -> int:
    """Returns a whole number. Columns in which one row is empty are stored as floats."""
    if int(value) != value:
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _seconds(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _by_time(span: Span) -> tuple[float, int]:
    return (-1.0 if span["from_s"] is None else span["from_s"]), span["episode"]


def _part_of(info: VideoInfo, place: Place, span: Span) -> tuple[float, VideoInfo]:
    """Returns when the episode's first frame is shown in the file, and the episode as a video."""
    end = place.first + place.num_frames
    times_s = info.times_s[place.first : end]
    start_s = float(times_s[0])
    end_s = float(info.times_s[end]) if end < len(info.times_s) else info.duration_s
    promised_s = (span["length"] or 0) / info.fps
    part = replace(
        info,
        times_s=times_s - start_s,
        duration_s=end_s - start_s,
        declared_duration_s=max(promised_s, end_s - start_s),
    )
    return start_s, part


class _SharedFrames:
    """Decodes a file once for all of its episodes, which must be requested in order."""

    def __init__(self, path: str, info: VideoInfo, using: OpenWith) -> None:
        self._path, self._info, self._using = path, info, using
        self._events: Iterator[DecodedFrame | DamagedSpan] | None = None
        self._ahead: DecodedFrame | DamagedSpan | None = None
        """An event that was read already, but also belongs to a later episode."""
        self._error: VideoError | None = None

    def frames(
        self, start_s: float, part: VideoInfo, width_px: int, height_px: int
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        """Yields the events that a video decoder would yield for the episode alone."""
        # Times are moved by the start and so rounded. A quarter of the smallest gap covers that,
        # and cannot reach the next frame.
        slack_s = 0.25 * min(1 / self._info.fps, np.diff(self._info.times_s).min(initial=np.inf))
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
                    yield replace(event, start_s=low_s - start_s, end_s=high_s - start_s)
                if event.end_s > end_s:
                    return

    def _next(self, width_px: int, height_px: int) -> DecodedFrame | DamagedSpan | None:
        if self._ahead is not None:
            event, self._ahead = self._ahead, None
            return event
        if self._error is not None:
            raise self._error  # the file broke earlier, so every later episode in it fails
        if self._events is None:
            self._events = self._using.decoder.frames(
                self._path, self._info, width_px, height_px, self._using.deadline
            )
        try:
            return next(self._events, None)
        except VideoError as error:
            self._error = error
            raise


def _open_rows(item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
    """Opens the episodes of a camera whose pictures lie in the rows."""
    camera = item.details["camera_in_rows"]
    assert item.labels_uri is not None
    table = _read_table(item.labels_uri, using.labels, camera)
    if isinstance(table, VideoError):
        raise table
    file_id, rows = table
    for span in item.details["episodes"]:
        uri = f"{item.uri}/{span['episode']}"
        of_episode = rows.filter(pc.equal(rows[EPISODE_INDEX], span["episode"]))
        episode_id = _hash(f"{file_id} {span['episode']}")
        yield open_rows(of_episode, camera, Promised.of(span), uri, episode_id, using)


def _labels(span: Span, num_frames: int, read_table: Any, cfg: LabelsConfig) -> EpisodeLabels:
    table = read_table(span["data_uri"])
    if isinstance(table, VideoError):
        raise table
    _, rows = table
    rows = rows.filter(pc.equal(rows[EPISODE_INDEX], span["episode"]))
    return table_labels(rows, num_frames, Promised.of(span), cfg)


def _episode_id(span: dict[str, Any], read_table: Any) -> str:
    table = read_table(span["data_uri"])
    return "" if isinstance(table, VideoError) else _hash(f"{table[0]} {span['episode']}")


def _read_table(uri: str, cfg: LabelsConfig, *more: str) -> tuple[str, pa.Table] | VideoError:
    """Returns the hash of the file and the needed columns, or the error of the file."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        # Returned, not raised: ``cache`` keeps no exceptions, and every episode would read the file
        # anew.
        return VideoError("missing_file", f"{uri} is missing")
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        columns = [*label_columns(names, cfg), *(name for name in more if name in names)]
        if EPISODE_INDEX not in columns:
            raise VideoError("no_labels", f"{uri} has no column {EPISODE_INDEX!r}")
        return hashlib.sha256(data).hexdigest(), read_columns(file, columns)
    except VideoError as error:
        return error
    except (pa.ArrowException, ValueError, OSError) as error:  # bytes in memory: not storage
        return VideoError("no_labels", f"parquet: {error}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
