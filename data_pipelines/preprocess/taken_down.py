"""What was taken down, for good: `takedowns.jsonl` of a run, which `preprocess` heeds."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from data_pipelines.preprocess.select.catalog import Catalog
from lafp import storage
from lafp.storage import strict_json

REASON = "taken_down"


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """One line: a source video, wherever it was found."""

    takedown_id: str
    taken_down_at: str
    video_ids: tuple[str, ...]
    """Hashes of its content."""
    video_uris: tuple[str, ...]
    """Where it lies, byte for byte."""
    spans: tuple[tuple[str, float, float], ...]
    """URI, start and end in seconds of near-duplicates of it in other videos."""

    @classmethod
    def from_dict(cls, raw: dict) -> "Takedown":
        """The inverse of ``dataclasses.asdict``, after JSON."""
        spans = tuple((uri, start_s, end_s) for uri, start_s, end_s in raw["spans"])
        ids, uris = tuple(raw["video_ids"]), tuple(raw["video_uris"])
        return cls(**raw | {"video_ids": ids, "video_uris": uris, "spans": spans})


def record_uri(shards: str) -> str:
    """Where the takedowns of a shard set are recorded: in its run, else in its own folder.

    So that they outlive a set that is deleted to be made anew.
    """
    run, _, name = shards.rstrip("/").rpartition("/shards/")
    return storage.join(run if run and "/" not in name else shards, "takedowns.jsonl")


def read_takedowns(shards: str) -> list[Takedown]:
    """All that was taken down from the run of a shard set."""
    uri = record_uri(shards)
    lines = storage.read_text(uri).splitlines() if storage.is_file(uri) else ()
    return [Takedown.from_dict(json.loads(line)) for line in lines]


def add_takedown(shards: str, takedown: Takedown) -> None:
    """Records a takedown, once."""
    found = read_takedowns(shards)
    if all(other.takedown_id != takedown.takedown_id for other in found):
        lines = [strict_json.dumps(asdict(each)) for each in (*found, takedown)]
        storage.write_text(record_uri(shards), "\n".join(lines) + "\n")


def reject_taken_down(catalog: Catalog, takedowns: Iterable[Takedown]) -> None:
    """Puts rejects in the place of what was taken down earlier."""
    db = catalog.db
    for number, takedown in enumerate(takedowns):
        if not number:
            db.execute("CREATE INDEX uris ON videos (uri)")
            db.execute("CREATE INDEX ids ON videos (video_id)")
            db.execute("CREATE INDEX of_video ON clips (video)")
        videos = set()
        for column, values in (("uri", takedown.video_uris), ("video_id", takedown.video_ids)):
            for value in values:
                found = db.execute(f"SELECT video FROM videos WHERE {column} = ?", (value,))
                videos |= {video for (video,) in found}
        for video in sorted(videos):
            _reject_video(catalog, video)
        for span in takedown.spans:
            _reject_span(catalog, *span)


def _reject_video(catalog: Catalog, video: int) -> None:
    for table in ("clips", "signatures", "rejects"):
        catalog.db.execute(f"DELETE FROM {table} WHERE video = ?", (video,))
    catalog.db.execute(
        "INSERT INTO rejects SELECT video, 0.0, duration_s, ?, '' FROM videos WHERE video = ?",
        (REASON, video),
    )
    # Nothing may count as the same file as this one.
    catalog.db.execute("UPDATE videos SET video_id = '' WHERE video = ?", (video,))


def _reject_span(catalog: Catalog, uri: str, start_s: float, end_s: float) -> None:
    clips = catalog.db.execute(
        "SELECT c.clip FROM clips c JOIN videos v USING (video) "
        "WHERE v.uri = ? AND c.start_s < ? AND c.end_s > ?",
        (uri, end_s, start_s),
    ).fetchall()
    for clip in clips:
        catalog.db.execute(
            "INSERT INTO rejects SELECT video, start_s, end_s, ?, '' FROM clips WHERE clip = ?",
            (REASON, *clip),
        )
        catalog.db.execute("DELETE FROM clips WHERE clip = ?", clip)
        catalog.db.execute("DELETE FROM signatures WHERE clip = ?", clip)
