"""Answers the questions of the page about one shard set, as values for JSON."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lafp.data.shards.damage import DamagedClipError
from lafp.data.stored_latents import LatentReader
from lafp.view.neighbours import LatentIndex
from lafp.view.queries import LENGTH, Fields, Query, Searched
from lafp.view.rejected import RejectPictures
from lafp.view.stored_clips import MissingError, StoredClips, series
from lafp.view.viewed_sets import ViewedSet

CLIP_FIELDS = Fields(
    text=("video_uri", "clip_id", "video_id", "episode_id", "source"),
    equal=("split", "source", "has_labels"),
    numbers=(LENGTH, "motion"),
    sort=(LENGTH, "motion", "num_frames", "num_bytes", "fps", "source_fps", "source_width_px"),
)
REJECT_FIELDS = Fields(
    text=("video_uri", "detail"), equal=("reason",), numbers=(LENGTH,), sort=(LENGTH, "start_s")
)
MAX_SPANS = 2000
"""So many clips, and rejects, of a video are shown on its time line."""
MAX_DUPLICATES = 24
_PAGE_ROWS, _MAX_PAGE_ROWS = 48, 200


class SetAnswers:
    """Answers questions about one set. Threads may share it."""

    def __init__(self, viewed: ViewedSet, stored_clips: StoredClips) -> None:
        self._set, self._stored_clips = viewed, stored_clips
        self._clips = Searched(viewed.clips, CLIP_FIELDS.text) if viewed.clips else None
        self._rejects = Searched(viewed.rejects, REJECT_FIELDS.text) if viewed.rejects else None
        self._pictures = RejectPictures(viewed.rejects) if viewed.rejects else None
        self._indices: dict[str, LatentIndex] = {}
        self._lock = threading.Lock()

    def overview(self) -> dict[str, object]:
        """Describes the set. Reads no rows."""
        spec, clips, rejects = self._set.spec, self._set.clips, self._set.rejects
        return {
            "name": self._set.name,
            "uri": self._set.uri,
            "spec": spec
            and {name: value for name, value in vars(spec).items() if name != "action"},
            "action": spec.action if spec else None,
            "num_clips": clips.num_rows if clips else 0,
            "num_rejects": rejects.num_rows if rejects else 0,
            "latents": sorted(self._set.latents),
        }

    def facets(self, _: Mapping[str, str]) -> dict[str, object]:
        """Counts the values that filters offer, over the whole set."""
        clips, rejects = self._clips, self._rejects
        return {
            "clips": {name: clips.totals(name) for name in CLIP_FIELDS.equal} if clips else {},
            "reasons": rejects.totals("reason") if rejects else {},
            "histograms": {
                "clips": {n: clips.histogram(n) for n in CLIP_FIELDS.numbers} if clips else {},
                "rejects": {LENGTH: rejects.histogram(LENGTH)} if rejects else {},
            },
        }

    def clips(self, asked: Mapping[str, str]) -> dict[str, object]:
        """Returns a page of clips."""
        if self._clips is None:
            return {"total": 0, "rows": []}
        query = CLIP_FIELDS.parse(asked)
        total, rows = self._clips.page(query, *_page_of(asked))
        return {"total": total, "rows": rows}

    def rejects(self, asked: Mapping[str, str]) -> dict[str, object]:
        """Returns a page of rejects; of near-duplicates also the clip that was kept."""
        if self._rejects is None:
            return {"total": 0, "rows": []}
        query = REJECT_FIELDS.parse(asked)
        total, rows = self._rejects.page(query, *_page_of(asked))
        if self._pictures:
            self._pictures.prepare([row["row"] for row in rows if row["end_s"] > row["start_s"]])
        return {"total": total, "rows": self._with_originals(rows)}

    def reject(self, row: int) -> dict[str, Any]:
        """Returns one reject.

        Raises:
            MissingError: There is no such row.
        """
        if self._rejects is None or row >= self._rejects.table.num_rows:
            raise MissingError(f"There is no reject {row}.")
        return self._rejects.table.take([row])[0]

    def reject_picture(self, row: int) -> bytes | None:
        """Returns a picture of a reject as JPEG; None if its source cannot be decoded from here.

        Raises:
            MissingError: There is no such row.
        """
        self.reject(row)
        assert self._pictures is not None
        return self._pictures.picture(row)

    def clip(self, clip_id: str, asked: Mapping[str, str]) -> dict[str, object]:
        """Returns all about one clip: record, labels, its video's other spans, its duplicates.

        Raises:
            MissingError: The set has no such clip.
        """
        record = self._record(clip_id)
        assert self._clips is not None
        of_video = Query(equal=(("video_uri", record["video_uri"]),), sort="start_s")
        columns = ["clip_id", "start_s", "end_s"]
        num_spans, spans = self._clips.page(of_video, 0, MAX_SPANS, columns)
        duplicates: list[dict[str, object]] = []
        rejects: list[dict[str, object]] = []
        num_rejects = num_duplicates = 0
        if self._rejects:
            num_rejects, rejects = self._rejects.page(of_video, 0, MAX_SPANS)
            copies = Query(equal=(("original_clip_id", clip_id),))
            num_duplicates, duplicates = self._rejects.page(copies, 0, MAX_DUPLICATES)
        try:
            labels, problem = self._stored_clips.labels(record["shard"], clip_id), ""
        except MissingError as error:
            labels, problem = [], str(error)
        return {
            "record": record,
            "labels": labels,
            "problem": problem,
            "spans": spans,
            "rejects": rejects,
            "duplicates": duplicates,
            "num_spans": num_spans + num_rejects,
            "num_duplicates": num_duplicates,
        }

    def neighbours(self, clip_id: str, asked: Mapping[str, str]) -> dict[str, object]:
        """Returns z of a clip's frame pair, and the pairs of other videos with the nearest z.

        Without ``frame``, the pair of the clip is taken that moves most.

        Raises:
            MissingError: There is no such latent set or clip, or the clip has no latents.
        """
        name = asked.get("latents", "")
        if name not in self._set.latents:
            raise MissingError(f"{self._set.name} has no latents called {name!r}.")
        record = self._record(clip_id)
        uri = self._set.latents[name]
        place = self._stored_clips.location(record["shard"], clip_id)
        try:
            reader = LatentReader(uri)
            latents_TZ = reader.read(record["shard"], place)
            frame = _frame_of(asked, record, reader.spec.frame_stack - 1)
            index = self._index(name)
            found = index.nearest(latents_TZ[frame], record["video_id"])
        except (RuntimeError, DamagedClipError) as error:
            raise MissingError(str(error)) from None
        clips = {row["clip_id"]: row for row in self._records([each.clip_id for each in found])}
        return {
            "frame": frame,
            "first_frame": reader.spec.frame_stack - 1,
            "latents": series("latent_action", latents_TZ),
            "neighbours": [
                vars(each) | {"clip": clips[each.clip_id]}
                for each in found
                if each.clip_id in clips
            ],
            "num_pairs": index.num_pairs,
        }

    def _index(self, name: str) -> LatentIndex:
        with self._lock:
            if name not in self._indices:
                self._indices[name] = LatentIndex(self._set.latents[name], self._set.shards)
            return self._indices[name]

    def _record(self, clip_id: str) -> dict[str, Any]:
        records = self._records([clip_id])
        if not records:
            raise MissingError(f"{self._set.name} has no clip {clip_id}.")
        return records[0]

    def _records(self, clip_ids: Sequence[str]) -> list[dict[str, Any]]:
        if self._clips is None or not clip_ids:
            return []
        return self._clips.table.take(self._clips.find("clip_id", clip_ids))

    def _with_originals(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        ids = {clip_id for row in rows if (clip_id := row["original_clip_id"])}
        kept = {clip["clip_id"]: clip for clip in self._records(sorted(ids))}
        return [row | {"original": kept.get(row["original_clip_id"])} for row in rows]


def _page_of(asked: Mapping[str, str]) -> tuple[int, int]:
    try:
        limit = int(asked.get("limit") or _PAGE_ROWS)
        return int(asked.get("offset") or 0), min(limit, _MAX_PAGE_ROWS)
    except ValueError:
        raise ValueError(
            f"offset and limit must be whole numbers, got {asked.get('offset')!r} and "
            f"{asked.get('limit')!r}."
        ) from None


def _frame_of(asked: Mapping[str, str], record: Mapping[str, Any], first: int) -> int:
    last = record["num_frames"] - 2
    if text := asked.get("frame"):
        if not text.isdecimal():
            raise ValueError(f"frame is {text!r}, expected a whole number.")
        frame = int(text)
    else:
        motion = np.asarray(record.get("pair_motion") or [0])[first : last + 1]
        frame = first + int(motion.argmax()) if motion.size else first
    return min(max(frame, first), max(first, last))
