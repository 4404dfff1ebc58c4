"""Counts the files of the sources, those that are read, and why the others are not.

Members of tars are files too, beside the tar: their listing is known when it has been read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.preprocess.rows import ItemRows, LeftOut, LeftOutKind, VideoItem


@dataclass
class FileCounts:
    """Counts files while they are listed, and members of tars when those have been read."""

    num_read: int = 0
    """Number of files that become inputs, and so clips or reject rows."""
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kind of file and reason -> number of files."""
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    """Kind of file and reason -> URI of the first such file."""

    def inputs(self, listed: Iterable[VideoItem | LeftOut]) -> Iterator[VideoItem]:
        """Passes on the files that are read, and counts all files on the way."""
        for found in listed:
            if isinstance(found, VideoItem):
                self.num_read += 1
                yield found
            else:
                self.leave_out(found)

    def leave_out(self, found: LeftOut, num_files: int = 1) -> None:
        """Counts a file that is not read, or ``num_files`` files of its kind."""
        kind = found.what, found.why
        self.left_out[kind] += num_files
        self.examples.setdefault(kind, found.uri)

    def add_members(self, rows: ItemRows) -> None:
        """Counts what a listed input turned out to hold."""
        self.num_read += rows.num_members
        for kind in rows.left_out:
            self.leave_out(kind.example, kind.num_files)

    def kinds(self) -> tuple[LeftOutKind, ...]:
        """Returns the files that are left out, by kind."""
        return tuple(
            LeftOutKind(LeftOut(uri=self.examples[what, why], what=what, why=why), num)
            for (what, why), num in self.left_out.items()
        )

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "FileCounts":
        """Restores the counts from their ``to_dict``."""
        counts = cls(num_read=raw["read"])
        for kind in raw["left_out"]:
            found = LeftOut(uri=kind["example"], what=kind["what"], why=kind["why"])
            counts.leave_out(found, kind["files"])
        return counts

    def to_dict(self) -> dict[str, object]:
        """Returns the counts ready for JSON, the most frequent kind first."""
        left_out = [
            {"what": what, "why": why, "files": num, "example": self.examples[what, why]}
            for (what, why), num in self.left_out.most_common()
        ]
        num_seen = self.num_read + self.left_out.total()
        return {"seen": num_seen, "read": self.num_read, "left_out": left_out}
