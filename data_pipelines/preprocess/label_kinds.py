"""Checks that all clips of a shard set have actions, states and conditions of one size.

An odd episode among many becomes a reject. If one folder holds two robots, the user must decide.
"""

from dataclasses import dataclass, field

from data_pipelines.preprocess.rows import LabelSums
from lafp.config import ConfigError
from lafp.runs.wording import counted

# A kind with more than this share of the clips is another robot, not an odd episode.
_MAX_ODD_SHARE = 0.1


@dataclass
class LabelKinds:
    """Counts the clips of each kind of labels, and keeps the URI of one video for each."""

    clips: dict[str, int] = field(default_factory=dict)
    videos: dict[str, str] = field(default_factory=dict)

    def add_clip(self, sums: LabelSums | None, video_uri: str) -> None:
        """Adds a clip, if it has labels."""
        if sums is not None:
            self.add(sums.kind, 1, video_uri)

    def add(self, kind: str, num_clips: int, video_uri: str) -> None:
        """Adds clips of one kind."""
        if kind:
            self.clips[kind] = self.clips.get(kind, 0) + num_clips
            self.videos.setdefault(kind, video_uri)

    def merge(self, other: "LabelKinds") -> None:
        """Adds the counts of another ``LabelKinds``."""
        for kind, num_clips in other.clips.items():
            self.add(kind, num_clips, other.videos[kind])

    @property
    def usual(self) -> str:
        """Returns the most frequent kind; empty if there are no clips."""
        # Sorted first, so that equal counts give the same answer in every run.
        return max(sorted(self.clips), key=lambda kind: self.clips[kind], default="")

    def check(self) -> None:
        """Checks that kinds other than the usual one are rare.

        Raises:
            ConfigError: They are not. The message names a video of each of two kinds.
        """
        if self._num_odd > _MAX_ODD_SHARE * sum(self.clips.values()):
            raise ConfigError(self._two_kinds())

    def warnings(self) -> list[str]:
        """Returns lines for ``--dry-run``: what a job would do if all clips were like these."""
        if len(self.clips) < 2:
            return []
        try:
            self.check()
        except ConfigError as error:
            return [f"warning: the job would stop. {error}"]
        other, usual = self._most_frequent_other, self.usual
        return [
            f"warning: {self._num_odd} of {counted(sum(self.clips.values()), 'clip')} would be "
            f"rejected (labels_mismatch): {self.videos[other]} has {other}, most clips have {usual}"
        ]

    @property
    def _num_odd(self) -> int:
        return sum(num for kind, num in self.clips.items() if kind != self.usual)

    @property
    def _most_frequent_other(self) -> str:
        others = sorted(kind for kind in self.clips if kind != self.usual)
        return max(others, key=lambda kind: self.clips[kind])

    def _two_kinds(self) -> str:
        usual, other = self.usual, self._most_frequent_other
        return two_kinds(self.videos[usual], usual, self.videos[other], other)


def two_kinds(where: str, kind: str, other: str, other_kind: str) -> str:
    """Words the error about two kinds of labels in one source."""
    return (
        f"The source holds labels of two kinds: {where} has {kind}, {other} has {other_kind}. "
        "A shard set holds one kind: name one of them as the source, or choose arrays of one size "
        "(labels.action_key, labels.action_parts, labels.state_key; a state_key that no file has "
        "leaves states out)."
    )
