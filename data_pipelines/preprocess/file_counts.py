"""Counts the files of the sources, those that are read, and why the others are not.

Members of tars are files too, beside the tar: their listing is known when it has been read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from data_pipelines.preprocess.rows import ItemRows, LeftOut, LeftOutKind, VideoItem


@dataclass(frozen=True, kw_only=True)
class FileKind:
    """Counts the files of one kind that were left out for one reason."""

    what: str
    """Kind of the files, e.g. ``.json``."""
    why: str
    files: int
    """Number of files."""
    example: str
    """URI of the first such file."""


@dataclass(frozen=True, kw_only=True)
class FileTable:
    """The counts of files in the plan, and in the summary of the stage."""

    seen: int
    """Number of files that were listed, and members of tars."""
    read: int
    """Number of files that became inputs, and so clips or reject rows."""
    left_out: tuple[FileKind, ...] = ()


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
    def of_table(cls, table: FileTable) -> "FileCounts":
        """Restores the counts from their ``table``, so that more files can be counted."""
        counts = cls()
        counts.add_table(table)
        return counts

    def add_table(self, table: FileTable) -> None:
        """Adds the counts of a ``table``."""
        self.num_read += table.read
        for kind in table.left_out:
            self.leave_out(LeftOut(uri=kind.example, what=kind.what, why=kind.why), kind.files)

    def table(self) -> FileTable:
        """Returns the counts as they are stored, the most frequent kind first."""
        left_out = tuple(
            FileKind(what=what, why=why, files=num, example=self.examples[what, why])
            for (what, why), num in self.left_out.most_common()
        )
        num_seen = self.num_read + self.left_out.total()
        return FileTable(seen=num_seen, read=self.num_read, left_out=left_out)
