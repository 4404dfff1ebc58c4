"""Keeps all rows of a source in a database on the driver's disk.

Decisions about the whole source (duplicates, splits, shards) need the rows in other orders than the
parts have them, and there may be more rows than fit in memory. The catalog is not stored: it is
always built again from the parts.
"""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import ClipRow, ItemRows
from lafp.storage import StorageError, strict_json

_CLIP_BLOCK = pa.schema(
    {"clip": pa.int64(), "video": pa.int64(), "part": pa.string(), "video_offset": pa.int64()}
)
CACHE_KIB = 64 * 1024
_SCHEMA = """
CREATE TABLE videos (
    video INTEGER PRIMARY KEY,       -- number in the order of the listing
    uri TEXT NOT NULL,
    video_id TEXT NOT NULL,
    episode TEXT NOT NULL,           -- videos of one episode share a split
    given_split TEXT,
    duration_s REAL NOT NULL,
    is_rate_assumed INTEGER NOT NULL,
    decoder_fallback TEXT NOT NULL,  -- why it was not decoded where it should, or empty
    first INTEGER,                   -- the earlier video with the same content
    split TEXT
);
CREATE TABLE clips (
    clip INTEGER PRIMARY KEY,        -- number in the order of the listing
    video INTEGER NOT NULL,
    clip_id TEXT NOT NULL,
    video_id TEXT NOT NULL,
    start_s REAL NOT NULL,
    end_s REAL NOT NULL,
    fps REAL NOT NULL,
    num_frames INTEGER NOT NULL,
    has_mask INTEGER NOT NULL,
    original INTEGER,                -- the earlier clip, or known one, that this one repeats
    split TEXT,
    kind TEXT NOT NULL,              -- kind of its labels (LabelSums.kind), or empty
    part TEXT NOT NULL,
    video_offset INTEGER NOT NULL,
    row TEXT NOT NULL                -- ClipRow as JSON
);
CREATE TABLE known_videos (          -- videos of finished sets that the source holds too
    video_id TEXT PRIMARY KEY, uri TEXT NOT NULL, episode TEXT NOT NULL, split TEXT NOT NULL,
    shard_set TEXT NOT NULL
);
CREATE TABLE known_clips (           -- clips of finished sets that a clip of the source repeats
    clip INTEGER PRIMARY KEY,        -- negative
    clip_id TEXT NOT NULL, episode TEXT NOT NULL, uri TEXT NOT NULL, shard_set TEXT NOT NULL,
    split TEXT NOT NULL
);
CREATE TABLE known_episodes (        -- videos of the source that share something with those of sets
    video INTEGER NOT NULL, episode TEXT NOT NULL, split TEXT NOT NULL
);
CREATE TABLE rejects (
    video INTEGER NOT NULL, start_s REAL NOT NULL, end_s REAL NOT NULL, reason TEXT NOT NULL,
    detail TEXT NOT NULL, original_clip_id TEXT, original_uri TEXT
);
"""


class Catalog:
    """Holds videos, clips and rejects of one source."""

    def __init__(self, folder: Path) -> None:
        """Creates a new catalog in a folder that is deleted together with it."""
        self._path = folder / "catalog.sqlite"
        # The tables lie on disk, so that the driver's memory does not grow with the corpus.
        # Without an isolation level Python begins no transactions, and ``add`` begins large ones.
        self.db = sqlite3.connect(self._path, isolation_level=None)
        # The database is never read after a crash, so nothing needs to be safe on disk.
        self.db.execute("PRAGMA journal_mode = OFF")
        self.db.execute("PRAGMA synchronous = OFF")
        # Sorting many clips must spill to the disk, not to memory.
        self.db.execute("PRAGMA temp_store = FILE")
        # A negative number is a size in KiB, a positive one would be a number of pages.
        self.db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self.db.executescript(_SCHEMA)
        self.num_videos = self.num_clips = 0

    def close(self) -> None:
        """Closes the database."""
        self.db.close()

    def add(self, items: Iterable[ItemRows]) -> None:
        """Appends inputs, in the order of the listing."""
        self.db.execute("BEGIN")
        for item in items:
            numbers = {}
            for video in item.videos:
                numbers[video.uri] = self.num_videos
                self.db.execute(
                    "INSERT INTO videos VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                    (
                        self.num_videos,
                        video.uri,
                        video.video_id,
                        video.episode_id or video.video_id,
                        video.split,
                        video.duration_s,
                        video.is_rate_assumed,
                        video.decoder_fallback,
                    ),
                )
                self.num_videos += 1
            for clip in item.clips:
                self._add_clip(numbers[clip.record.video_uri], clip)
            self.db.executemany(
                "INSERT INTO rejects VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        numbers[row.video_uri],
                        row.start_s,
                        row.end_s,
                        row.reason,
                        row.detail,
                        row.original_clip_id,
                        row.original_uri,
                    )
                    for row in item.rejects
                ],
            )
        self.db.execute("COMMIT")

    def _add_clip(self, video: int, clip: ClipRow) -> None:
        record = clip.record
        self.db.execute(
            "INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?, ?, ?, ?)",
            (
                self.num_clips,
                video,
                record.clip_id,
                record.video_id,
                record.start_s,
                record.end_s,
                record.fps,
                record.num_frames,
                record.has_mask,
                clip.label_sums.kind if clip.label_sums else "",
                clip.part,
                clip.video_offset,
                strict_json.dumps(clip),
            ),
        )
        self.num_clips += 1

    def clip_blocks(self, block_clips: int) -> Iterator[pa.Table]:
        """Yields the places of the clips that are left, in blocks of consecutive numbers.

        Yields:
            ``clip``, ``video``, ``part`` and ``video_offset``. The table number ``n`` has the clips
            from ``n * block_clips`` on.
        """
        query = (
            "SELECT clip, video, part, video_offset FROM clips WHERE clip >= ? AND clip < ? "
            "ORDER BY clip"
        )
        for first in range(0, max(self.num_clips, 1), block_clips):
            rows = self.db.execute(query, (first, first + block_clips)).fetchall()
            columns = zip(*rows, strict=True) if rows else [[]] * len(_CLIP_BLOCK)
            yield pa.table(dict(zip(_CLIP_BLOCK.names, columns, strict=True)), _CLIP_BLOCK)

    def kept_clips(self) -> Iterator[ClipRow]:
        """Yields the clips that are left, with their splits, in the order of the shards.

        The order is by split, then by the videos' ids. These are hashes, so the order is random,
        but the clips of a video stay together. It depends only on the clips, not on how the work
        was divided.
        """
        rows = self.db.execute(
            # The index holds the rows in this order, so that nothing is sorted.
            "SELECT row, split FROM clips INDEXED BY kept WHERE original IS NULL "
            "ORDER BY split, video_id, start_s"
        )
        for text, split in rows:
            clip = strict_json.loads(ClipRow, text)
            yield replace(clip, record=replace(clip.record, split=split))

    def rejects(self) -> Iterator[RejectRow]:
        """Yields all rejects, by video and time."""
        rows = self.db.execute(
            "SELECT v.uri AS video_uri, r.start_s, r.end_s, r.reason, r.detail, "
            "r.original_clip_id, r.original_uri FROM rejects r JOIN videos v USING (video) "
            "ORDER BY v.uri, r.start_s, r.end_s"
        )
        names = [column[0] for column in rows.description]
        for row in rows:
            yield RejectRow(**dict(zip(names, row, strict=True)))

    def value(self, query: str) -> Any:
        """Returns the single value of a query."""
        (found,) = self.db.execute(query).fetchone()
        return found


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns an error of the disk, e.g. that it is full, into a StorageError with the folder.

    Errors of other files pass, because they name what is missing themselves.
    """
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        if isinstance(error, OSError) and not _is_of(folder.parent, error):
            raise
        raise StorageError(
            f"Could not write {folder}, the driver's scratch folder (TMPDIR moves it): {error}"
        ) from error


def _is_of(folder: Path, error: OSError) -> bool:
    """Tells whether an error comes from a file in the folder, or that its disk may be full."""
    if isinstance(error, StorageError):
        return False
    if error.filename is None:  # writing to an open file, or a store's answer
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return folder in Path(os.fsdecode(error.filename)).parents
