"""What goes from stage to stage: small rows. Frames and whole videos never become rows."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from data_pipelines.preprocess.rejects import RejectRow
from lafp.data.shards.format import ClipRecord, Labels, Split


@dataclass(frozen=True, kw_only=True)
class VideoItem:
    """One listed input: a video, or a file of stacked episodes. Items survive JSON."""

    uri: str
    num_bytes: int
    """0 where the listing does not know it."""
    split: Split | None
    """Where its source was given for a split; None decides by the hash of its content."""
    labels_uri: str | None = None
    """Its sidecar; the file itself where it holds stacked episodes."""
    reader: str = ""
    """What opens it: a name in ``sources.LABELED_SOURCES`` or ``list_videos.WEBDATASET``; empty for
    videos and ``.npz``."""
    is_guess: bool = False
    """Whether its name leaves open what it is: that it is no video tells nothing of the source."""
    piece: int | None = None
    """Of a long video (``clip.pieces``); None is all of it."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the reader wants to know of it, ready for JSON; ``reject``: reason and detail."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A listed file, or one in a tar, that is no input.

    It is counted, and said once for all of its kind.
    """

    uri: str
    what: str
    """Its kind, e.g. ``.json``: few different ones."""
    why: str


@dataclass(frozen=True)
class LeftOutKind:
    """Files that are left out for the same reason."""

    example: LeftOut
    num_files: int


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """One video that was gone through, whatever came of it."""

    uri: str
    """Of a stacked episode: ``file.npz#3``."""
    video_id: str
    """32 hex digits of the content's hash; empty when it could not be read."""
    split: Split | None
    num_bytes: int
    duration_s: float
    """What must be accounted for by clips and rejects; 0 when it is no video."""
    episode_id: str = ""
    """Videos of one episode share it and go to one split; empty where the video is the episode."""
    is_rate_assumed: bool = False
    """Whether its frame rate is a default, because nothing says it."""
    span_s: tuple[float, float] | None = None
    """Of a piece: what its clips and rejects cover. None is all of the video."""
    is_member: bool = False
    """Whether it is a file in a tar."""


@dataclass(frozen=True, kw_only=True)
class LongVideo:
    """Takes the place of the rows of a video that shall be gone through piece by piece."""

    video: VideoRow
    spans_s: tuple[tuple[float, float], ...]
    """Of the pieces."""


@dataclass(frozen=True, kw_only=True)
class LabelSums:
    """Sums over the pairs of one clip, from which those of the set are added up."""

    num_rows: int
    total: tuple[float, ...] = ()
    """Per dimension, like all that follows; empty for discrete actions."""
    total_squares: tuple[float, ...] = ()
    smallest: tuple[float, ...] = ()
    largest: tuple[float, ...] = ()
    buckets: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Buckets of values and how many are in each (``action_statistics``)."""
    low: tuple[float, ...] = ()
    """Smallest value; the action space's bound where the labels give it."""
    high: tuple[float, ...] = ()
    is_bounded: bool = False
    """Whether low and high are the action space's bounds."""
    num_choices: int = 0
    """Of discrete actions: the largest seen, plus one."""
    num_state: int = 0
    """Numbers in a state; 0 without states. The same of conditions below."""
    num_condition: int = 0

    @property
    def kind(self) -> str:
        """Sizes of what a row holds, in words; one shard set has one kind."""
        action = f"actions of {len(self.total)} numbers" if self.total else "discrete actions"
        more = (("states", self.num_state), ("conditions", self.num_condition))
        return ", ".join([action, *(f"{name} of {size}" for name, size in more if size)])

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "LabelSums":
        """The inverse of ``dataclasses.asdict``, after JSON."""
        return cls(**{key: _freeze(value) for key, value in raw.items()})


@dataclass(frozen=True, kw_only=True)
class EncodedClip:
    """One clip on its way from the encoder into a part. The only row with bytes in it."""

    record: ClipRecord
    """Its split is not decided yet."""
    video: bytes
    labels: Labels | None
    label_sums: LabelSums | None
    signature: str
    """What it looks like (``measure.signature``); empty unless duplicates are to be dropped."""


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """One encoded clip, lying in a part."""

    record: ClipRecord
    signature: str
    part: str
    """File name of the tar that it lies in."""
    video_offset: int
    labels_offset: int = 0
    labels_bytes: int = 0
    label_sums: LabelSums | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        sums = asdict(self.label_sums) if self.label_sums else None
        return vars(self) | {"record": self.record.to_dict(), "label_sums": sums}


Row = VideoRow | EncodedClip | RejectRow | LongVideo | LeftOut


@dataclass(frozen=True)
class Undone:
    """Takes back the last ``VideoRow`` and all that followed it: they come anew, or never."""


def settled(rows: Iterable[Row | Undone]) -> list[Row]:
    """What is left of an input's rows when nothing is taken back any more."""
    left: list[Row] = []
    for row in rows:
        if isinstance(row, Undone):
            last = max(i for i, kept in enumerate(left) if isinstance(kept, VideoRow))
            del left[last:]
        else:
            left.append(row)
    return left


@dataclass(frozen=True, kw_only=True)
class ItemRows:
    """All that came of one listed input."""

    videos: tuple[VideoRow, ...] = ()
    clips: tuple[ClipRow, ...] = ()
    rejects: tuple[RejectRow, ...] = ()
    long_video: LongVideo | None = None
    """Set where pieces hold the rows."""
    left_out: tuple[LeftOutKind, ...] = ()
    """Of a tar: members that are no inputs."""

    @property
    def num_members(self) -> int:
        """Of a tar: those that were read."""
        return sum(video.is_member for video in self.videos)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "videos": [asdict(video) for video in self.videos],
            "clips": [clip.to_dict() for clip in self.clips],
            "rejects": [asdict(reject) for reject in self.rejects],
            "long_video": asdict(self.long_video) if self.long_video else None,
            "left_out": [asdict(kind) for kind in self.left_out],
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ItemRows":
        """The inverse of ``to_dict``, after JSON."""
        return cls(
            videos=tuple(video_from_dict(row) for row in raw["videos"]),
            clips=tuple(clip_row_from_dict(row) for row in raw["clips"]),
            rejects=tuple(RejectRow(**row) for row in raw["rejects"]),
            long_video=long_video_from_dict(raw["long_video"]) if raw["long_video"] else None,
            left_out=tuple(
                LeftOutKind(LeftOut(**kind["example"]), kind["num_files"])
                for kind in raw["left_out"]
            ),
        )


def video_from_dict(raw: dict[str, Any]) -> VideoRow:
    """The inverse of ``dataclasses.asdict``, after JSON."""
    return VideoRow(**{key: _freeze(value) for key, value in raw.items()})


def long_video_from_dict(raw: dict[str, Any]) -> LongVideo:
    """The inverse of ``dataclasses.asdict``, after JSON."""
    return LongVideo(video=video_from_dict(raw["video"]), spans_s=_freeze(raw["spans_s"]))


def clip_row_from_dict(raw: dict[str, Any]) -> ClipRow:
    """The inverse of ``ClipRow.to_dict``, after JSON."""
    sums = LabelSums.from_dict(raw["label_sums"]) if raw["label_sums"] else None
    return ClipRow(**raw | {"record": ClipRecord.from_dict(raw["record"]), "label_sums": sums})


def _freeze(value: Any) -> Any:
    return tuple(map(_freeze, value)) if isinstance(value, list) else value
