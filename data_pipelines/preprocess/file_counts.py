"""How many files the sources hold, how many of them are read, and why the others are not."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from data_pipelines.preprocess.rows import LeftOut, VideoItem


@dataclass
class FileCounts:
    """Counts files while they are listed."""

    num_read: int = 0
    """Those that become inputs, and so clips or reject rows."""
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What and why -> number of files."""
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    """What and why -> URI of the first."""

    def inputs(self, listed: Iterable[VideoItem | LeftOut]) -> Iterator[VideoItem]:
        """Those that are read; all are counted on the way."""
        for found in listed:
            if isinstance(found, VideoItem):
                self.num_read += 1
                yield found
            else:
                kind = found.what, found.why
                self.left_out[kind] += 1
                self.examples.setdefault(kind, found.uri)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, the most frequent first."""
        left_out = [
            {"what": what, "why": why, "files": num, "example": self.examples[what, why]}
            for (what, why), num in self.left_out.most_common()
        ]
        num_seen = self.num_read + self.left_out.total()
        return {"seen": num_seen, "read": self.num_read, "left_out": left_out}
