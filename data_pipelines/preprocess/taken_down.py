"""Records takedowns for good in a run's or study's `takedowns.jsonl`, which `preprocess` obeys."""

from collections.abc import Iterable
from dataclasses import dataclass

from data_pipelines.preprocess.select.catalog import Catalog
from lafp import storage
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


def reject_taken_down(catalog: Catalog, takedowns: Iterable[Takedown]) -> None:
    """Replaces the rows of videos that were taken down earlier by rejects."""
    db = catalog.db
    for number, takedown in enumerate(takedowns):
        # Most sources have no takedown, and need no index.
        if not number:
            db.execute("CREATE INDEX uris ON videos (uri)")
            db.execute("CREATE INDEX ids ON videos (video_id)")
            db.execute("CREATE INDEX of_video ON clips (video)")
        videos = set()
        for column, values in (("uri", takedown.video_uris), ("video_id", takedown.video_ids)):
            for value in values:
                query = f"SELECT video FROM videos WHERE {column} = ?"  # noqa: S608 - named above
                found = db.execute(query, (value,))
                videos |= {video for (video,) in found}
        for video in sorted(videos):
            _reject_video(catalog, video)
        for span in takedown.spans:
            _reject_span(catalog, *span)


def _reject_video(catalog: Catalog, video: int) -> None:
    for table in ("clips", "rejects"):
        query = f"DELETE FROM {table} WHERE video = ?"  # noqa: S608 - named above
        catalog.db.execute(query, (video,))
    catalog.db.execute(
        "INSERT INTO rejects (video, start_s, end_s, reason, detail) "
        "SELECT video, 0.0, duration_s, ?, '' FROM videos WHERE video = ?",
        (REASON, video),
    )
    # Without an id, no other video is rejected as a copy of this one.
    catalog.db.execute("UPDATE videos SET video_id = '' WHERE video = ?", (video,))


def _reject_span(catalog: Catalog, uri: str, start_s: float, end_s: float) -> None:
    clips = catalog.db.execute(
        "SELECT c.clip FROM clips c JOIN videos v USING (video) "
        "WHERE v.uri = ? AND c.start_s < ? AND c.end_s > ?",
        (uri, end_s, start_s),
    ).fetchall()
    for clip in clips:
        catalog.db.execute(
            "INSERT INTO rejects (video, start_s, end_s, reason, detail) "
            "SELECT video, start_s, end_s, ?, '' FROM clips WHERE clip = ?",
            (REASON, *clip),
        )
        catalog.db.execute("DELETE FROM clips WHERE clip = ?", clip)
