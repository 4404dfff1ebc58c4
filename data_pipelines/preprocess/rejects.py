"""Defines reject rows: every span of every input that became no clip, with the reason."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

EXPIRED = "expired"
"""Reason of rejects that a resumed job tries once more, because the list may be signed anew."""
NUM_EXAMPLES = 3
"""Number of rejects that a message shows."""
REASONS = {
    # the file
    "not_found": "no file at its URI",
    "unreadable": "the file could not be read",
    "private_address": "its host is in a private network: http.allow_private_addresses",
    EXPIRED: "the signature of its address had expired: sign the list anew and run again",
    "not_a_file": "a folder, a pipe or a device stands where a file is wanted",
    "bad_entry": "its row in the list, or in the index of a dataset, cannot be used",
    "missing_file": "the dataset's index lists it, but one of its files is missing",
    "not_a_video": "not a container format that the video decoder knows",
    "no_video_stream": "a container without video, e.g. sound only",
    "unsupported_codec": "a video stream that the video decoder has no codec for",
    "beyond_decoder": "this video decoder would show it wrongly; video_decoder.name=pyav shows it",
    "no_frames": "a header without frames",
    "does_not_decode": "the video decoder cannot decode any of it",
    "too_many_bytes": "larger than limits.max_bytes or http.max_bytes",
    "too_large": "frames larger than limits.max_pixels",
    "too_small": "frames smaller than limits.min_side_px",
    "too_long": "longer than limits.max_duration_s",
    "blank": "a camera that the dataset fills with padding",
    "depth": "a camera of depth maps, not of colour pictures",
    "failed": "reading it failed unexpectedly: please report it",
    "killed_worker": "the process that decoded it died twice",
    "taken_down": "removed by `takedown`, or looks like a removed video",
    "same_file": "the same bytes as an earlier input, or a video of a finished set",
    # spans of the file
    "damaged": "does not decode to the frames that were encoded",
    "truncated": "the header promises more than the file holds",
    "gap": "one frame is shown for longer than clip.max_hold_s",
    "frozen": "shows one picture for longer than clip.max_frozen_s",
    "timeout": "limits.timeout_s (for a download http.timeout_s) was used up before this",
    "out_of_memory": "limits.max_memory_bytes was used up in this span",
    "too_short": "fewer than clip.min_frames frames between cuts",
    "static": "a clip, or a span of clip.max_frozen_s, with less motion than filters.min_motion",
    "dark": "darker than filters.min_brightness",
    "near_duplicate": "looks and moves like an earlier clip, or one of a finished set",
    # the labels of the file
    "no_labels": "the labels are missing or unreadable",
    "labels_mismatch": "the labels do not belong to these frames",
    "bad_labels": "the label rows of these frames are missing, not numbers, NaN or infinite",
    # the masks of the file
    "masks_mismatch": "the masks do not belong to these frames",
    "bad_masks": "the masks of these frames do not decode",
}


@dataclass(frozen=True, kw_only=True)
class RejectRow:
    """Holds one row of rejects.parquet."""

    video_uri: str
    start_s: float
    """Start of the span in seconds of presentation time. The span is empty if the file has no known
    duration."""
    end_s: float
    reason: str
    """A key of ``REASONS``."""
    detail: str = ""
    """Says in words what was found. No program reads it."""
    original_clip_id: str | None = None
    """Id of the clip that was kept instead of a ``near_duplicate``. A finished set may hold it."""
    original_uri: str | None = None
    """URI of the video that was kept instead of a ``near_duplicate`` or a ``same_file``."""

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason
        assert self.end_s >= self.start_s, (self.start_s, self.end_s)


def reject_rows(tables: "Iterable[pa.Table]") -> Iterator[RejectRow]:
    """Yields the rejects of tables with a column for each field."""
    return (RejectRow(**row) for table in tables for row in table.to_pylist())


@dataclass(frozen=True)
class Refused:
    """Says why a listed input becomes a reject row, and not a video."""

    reason: str
    """A key of ``REASONS``."""
    detail: str
    original_uri: str | None = None


@dataclass
class RejectCounts:
    """Counts the rejects of each reason, and keeps the first few of each."""

    spans: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[RejectRow]] = field(default_factory=dict)

    def add(self, rows: Iterable[RejectRow]) -> None:
        """Counts more rows."""
        for row in rows:
            self.spans[row.reason] += 1
            self._keep(row)

    def merge(self, other: "RejectCounts") -> None:
        """Adds the counts of another ``RejectCounts``."""
        self.spans += other.spans
        for row in itertools.chain.from_iterable(other.examples.values()):
            self._keep(row)

    def in_words(self) -> str:
        """Describes the most frequent reasons, with a few examples."""
        if not self.spans:
            return ""
        common = [reason for reason, _ in self.spans.most_common(4)]
        listed = "; ".join(f"{self.spans[r]} {r} ({REASONS[r]})" for r in common)
        by_turns = itertools.zip_longest(*(self.examples[reason] for reason in common))
        rows = filter(None, itertools.chain.from_iterable(by_turns))
        shown = [f"{row.video_uri}: {row.detail or row.reason}" for row in rows][:NUM_EXAMPLES]
        return f"Rejects: {listed}. For example: {'; '.join(shown)}."

    def _keep(self, row: RejectRow) -> None:
        known = self.examples.setdefault(row.reason, [])
        if len(known) < NUM_EXAMPLES:
            known.append(row)
