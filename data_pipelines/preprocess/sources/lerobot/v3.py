"""Reads LeRobot datasets v3.0, in which episodes are concatenated in files.

``meta/episodes/**.parquet`` has a row per episode, which names the parquet file of its rows and,
for each camera, the video file and the span in it. One item is one video file, which is fetched and
decoded once for all of its episodes.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.preprocess.clip.labels.read import EpisodeLabels, LabelsConfig
from data_pipelines.preprocess.faults import rejected_item
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.sources.lerobot.index import list_spans
from data_pipelines.preprocess.sources.lerobot.info import LeRobotInfo
from data_pipelines.preprocess.sources.lerobot.pictures import open_rows
from data_pipelines.preprocess.sources.lerobot.spans import Place, Span, place_episodes
from data_pipelines.preprocess.sources.lerobot.tables import (
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
from data_pipelines.preprocess.sources.shared_frames import SharedFrames
from lafp import storage
from lafp.data.shards.format import Split
from lafp.video.decoders.base import VideoError, VideoInfo

ReadTable = Callable[[str], tuple[str, pa.Table] | VideoError]
"""URI of a table -> the hash of its file and its columns, or the error of the file."""


class LeRobotV3:
    """Reads LeRobot v3.0."""

    def list_items(self, info: LeRobotInfo, split: Split | None) -> Iterator[VideoItem]:
        """Yields one item per video file with episodes; missing files become rejects later."""
        spans: dict[str, list[Span]] = defaultdict(list)
        found, errors = list_spans(info)
        for where, error in errors.items():
            yield info.bad_row(where, error, split)
        for (episode, camera), listed in sorted(found.items()):
            if len(listed) > 1:
                detail = f"meta/episodes has {len(listed)} different rows of episode {episode}"
                why = Refused("labels_mismatch", detail)
                yield rejected_item(f"{listed[0][0]}#{episode}/{camera}", split, why)
            else:
                spans[listed[0][0]].append(listed[0][1])
        files = storage.list_files(storage.join(info.source, "videos"))
        sizes = {file.uri: file.num_bytes for file in files}
        for uri in sorted(spans):
            yield VideoItem(
                uri=uri,
                num_bytes=sizes.get(uri, 0),
                split=split,
                labels_uri=spans[uri][0]["data_uri"],
                reader="lerobot",
                details={
                    "version": "v3",
                    # ``SharedFrames`` decodes the file once, and so must serve episodes in its
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
            info = probe_file(path, using.video_decoder, using.max_pixels, using.deadline)
            shared = SharedFrames(str(path), info, using)
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


def _labels(span: Span, num_frames: int, read_table: ReadTable, cfg: LabelsConfig) -> EpisodeLabels:
    table = read_table(span["data_uri"])
    if isinstance(table, VideoError):
        raise table
    _, rows = table
    rows = rows.filter(pc.equal(rows[EPISODE_INDEX], span["episode"]))
    return table_labels(rows, num_frames, Promised.of(span), cfg)


def _episode_id(span: Span, read_table: ReadTable) -> str:
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
