"""Finds a source video in shard sets: the video, copies of its file, and near-duplicates."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.clip_tables import clip_rows
from lafp.storage.tables import iter_rows

_CLIP_COLUMNS = ("clip_id", "video_id", "video_uri", "start_s", "end_s", "num_frames", "split")


@dataclass
class Video:
    """Holds the content hashes of one video, and its known URIs."""

    video_ids: set[str] = field(default_factory=set)
    video_uris: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Lists the clips, rejects and spans of a video in one shard set."""

    clips: list[dict[str, Any]]
    """Rows of the table of clips: the video's clips, and near-duplicates of them from other
    videos."""
    rejects: list[dict[str, Any]]
    """Rows of ``rejects.parquet``: the video's spans, and near-duplicates of its clips."""
    spans: list[tuple[str, float, float]]
    """Near-duplicates of the video in other videos: URI, start and end."""
    clip_ids: set[str]
    """Ids of the clips, and of such clips in other sets, which rejects of this set may name."""


def find_video(shard_sets: Collection[str], video_id: str | None, video_uri: str | None) -> Video:
    """Finds all URIs and ids of files with the same bytes, as far as the sets' tables show."""
    video = Video({video_id} if video_id else set(), {video_uri} if video_uri else set())
    size = -1
    # A copy found in one set may lead to further copies in another, so the search ends when a round
    # finds nothing new.
    while size != (size := len(video.video_ids) + len(video.video_uris)):
        for shards in shard_sets:
            found = _is_in("video_uri", video.video_uris) | _is_in("video_id", video.video_ids)
            for row in _rows(shards, "clips", ("video_id", "video_uri"), found):
                video.video_ids.add(row["video_id"])
                video.video_uris.add(row["video_uri"])
            for uri, other in _same_files(shards, video.video_uris):
                video.video_uris |= {uri, other}
    return video


def _same_files(shards: str, uris: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields pairs of equal files, of which one is among ``uris``: the dropped and the kept one."""
    same = (pc.field("reason") == "same_file") & (
        _is_in("video_uri", uris) | _is_in("original_uri", uris)
    )
    for row in _rows(shards, "rejects", ("video_uri", "original_uri"), same):
        yield row["video_uri"], row["original_uri"]


def check_names_one_video(shard_sets: Collection[str], uri: str) -> None:
    """Checks that an address means one video although its password or signature was taken out.

    Raises:
        ConfigError: Several videos are stored under this address and a number.
    """
    among = pc.starts_with(pc.field("video_uri"), f"{uri}#@")
    for shards in shard_sets:
        for table in ("clips", "rejects"):
            if any(_rows(shards, table, ("video_uri",), among)):
                raise ConfigError(
                    f"video_uri: several videos in {shards} have the address {uri} when their "
                    "secrets are left out. Name the video by video_id, or by a `video_uri` of "
                    "the tables in clips/."
                )


def find_in_sets(shard_sets: Sequence[str], video: Video) -> dict[str, Findings]:
    """Finds the clips, rejects and spans of a video in each set.

    A clip of another video is a near-duplicate if a reject names it as the original of one of the
    video's clips. A reject of another video is a near-duplicate if it names one of the video's
    clips, or such an original. Rejects may name clips of another set (``filters.against``).
    """
    own = _is_in("video_uri", video.video_uris) | _is_in("video_id", video.video_ids)
    names = (*_CLIP_COLUMNS, "shard")
    clips = {shards: list(_rows(shards, "clips", names, own)) for shards in shard_sets}
    has_original = pc.field("original_clip_id").is_valid()
    copied = _is_in("video_uri", video.video_uris) & has_original
    kept_elsewhere = {
        row["original_clip_id"]
        for shards in shard_sets
        for row in _rows(shards, "rejects", ("original_clip_id",), copied)
    }
    for shards, found in clips.items():
        others = kept_elsewhere - {clip["clip_id"] for clip in found}
        found += _rows(shards, "clips", names, _is_in("clip_id", others))
    clip_ids = kept_elsewhere | {clip["clip_id"] for found in clips.values() for clip in found}
    return {shards: _findings(shards, video, clips[shards], clip_ids) for shards in shard_sets}


def _findings(
    shards: str, video: Video, clips: list[dict[str, Any]], clip_ids: set[str]
) -> Findings:
    own_or_copied = _is_in("video_uri", video.video_uris) | _is_in("original_clip_id", clip_ids)
    rejects = list(_rows(shards, "rejects", ("video_uri", "start_s", "end_s"), own_or_copied))
    spans = [
        (row["video_uri"], row["start_s"], row["end_s"])
        for row in (*clips, *rejects)
        if row["video_uri"] not in video.video_uris
    ]
    spans += list(_in_copies(shards, spans))
    return Findings(clips=clips, rejects=rejects, spans=sorted(spans), clip_ids=clip_ids)


def _in_copies(
    shards: str, spans: Collection[tuple[str, float, float]]
) -> Iterator[tuple[str, float, float]]:
    """Yields the same spans in copies of these files, which would otherwise take their place."""
    for copy, original in _same_files(shards, {uri for uri, _, _ in spans}):
        yield from ((copy, start_s, end_s) for uri, start_s, end_s in spans if uri == original)


def _is_in(column: str, values: Collection[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(sorted(values), pa.string()))


def _rows(
    shards: str, table: str, columns: Sequence[str], wanted: pc.Expression
) -> Iterator[dict[str, Any]]:
    """Yields the wanted rows of a table, with one batch in memory at a time."""
    if table == "clips":
        return clip_rows(shards, columns, wanted)
    return iter_rows(storage.join(shards, f"{table}.parquet"), columns, wanted)
