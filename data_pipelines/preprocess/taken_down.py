"""Records takedowns for good in a run's or study's `takedowns.jsonl`, which `preprocess` obeys."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import ItemRows, VideoRow
from lafp import storage
from lafp.data.shards.format import ClipRecord
from lafp.storage import strict_json

REASON = "taken_down"


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """Holds one line of the file: a source video and all places where it was found."""

    takedown_id: str
    taken_down_at: str
    video_ids: tuple[str, ...]
    """Hashes of its content."""
    video_uris: tuple[str, ...]
    """URIs of files with exactly this content."""
    spans: tuple[tuple[str, float, float], ...]
    """Near-duplicates of it in other videos: URI, start and end in seconds."""


def home_of(shards: str) -> str:
    """Returns the folder of the run or the study of a shard set; its own folder if it has none.

    A run's sets lie in ``RUN/shards/NAME``, a study's in ``STUDY/stages/shards/NAME/KEY``.
    """
    uri = shards.rstrip("/")
    run, _, name = uri.rpartition("/shards/")
    if run and "/" not in name:
        return run
    study = run.removesuffix("/stages")
    return study if study != run and name.count("/") == 1 else uri


def record_uri(shards: str) -> str:
    """Returns where a shard set's takedowns are recorded: in its run or study, else in its folder.

    The record lies outside the set, so that it outlives a set that is deleted and made again.
    """
    return storage.join(home_of(shards), "takedowns.jsonl")


def read_takedowns(shards: str) -> list[Takedown]:
    """Reads all takedowns of a shard set's run."""
    uri = record_uri(shards)
    lines = storage.read_text(uri).splitlines() if storage.is_file(uri) else ()
    return [strict_json.loads(Takedown, line, uri) for line in lines]


def add_takedowns(shards: str, takedowns: Iterable[Takedown]) -> None:
    """Records takedowns that are not recorded yet, all of them in one atomic write."""
    found = read_takedowns(shards)
    known = {takedown.takedown_id for takedown in found}
    new = [takedown for takedown in takedowns if takedown.takedown_id not in known]
    if new:
        storage.write_text(record_uri(shards), strict_json.dump_lines((*found, *new)))


class TakenDown:
    """Replaces the rows of videos that were taken down earlier by rejects.

    Args:
        takedowns: All takedowns of the run.
    """

    def __init__(self, takedowns: Iterable[Takedown] = ()) -> None:
        takedowns = list(takedowns)
        self._uris = {uri for takedown in takedowns for uri in takedown.video_uris}
        self._ids = {video_id for takedown in takedowns for video_id in takedown.video_ids}
        self._spans: dict[str, list[tuple[float, float]]] = {}
        for uri, start_s, end_s in (span for takedown in takedowns for span in takedown.spans):
            self._spans.setdefault(uri, []).append((start_s, end_s))

    def applied(self, item: ItemRows) -> ItemRows:
        """Returns the rows of an input without what was taken down."""
        gone = {video.uri for video in item.videos if self._is_gone(video)}
        spans = [clip for clip in item.clips if self._is_gone_span(clip.record)]
        if not gone and not spans:
            return item
        ids = {clip.record.clip_id for clip in spans}
        rejects = [row for row in item.rejects if row.video_uri not in gone]
        rejects += [
            RejectRow(video_uri=video.uri, start_s=0.0, end_s=video.duration_s, reason=REASON)
            for video in item.videos
            if video.uri in gone
        ]
        rejects += [_reject(clip.record) for clip in spans if clip.record.video_uri not in gone]
        return replace(
            item,
            # Without an id, no other video is rejected as a copy of this one.
            videos=tuple(replace(v, video_id="") if v.uri in gone else v for v in item.videos),
            clips=tuple(
                clip
                for clip in item.clips
                if clip.record.video_uri not in gone and clip.record.clip_id not in ids
            ),
            rejects=tuple(rejects),
        )

    def _is_gone(self, video: VideoRow) -> bool:
        return video.uri in self._uris or video.video_id in self._ids

    def _is_gone_span(self, clip: ClipRecord) -> bool:
        spans = self._spans.get(clip.video_uri, ())
        return any(clip.start_s < end_s and clip.end_s > start_s for start_s, end_s in spans)


def _reject(clip: ClipRecord) -> RejectRow:
    return RejectRow(
        video_uri=clip.video_uri, start_s=clip.start_s, end_s=clip.end_s, reason=REASON
    )
