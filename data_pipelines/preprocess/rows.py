"""Defines the small rows that stages exchange. Frames and whole videos never become stored rows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from data_pipelines.preprocess.rejects import Refused, RejectRow
from lafp.data.shards.format import ClipRecord, Labels, Split


@dataclass(frozen=True, kw_only=True)
class VideoItem:
    """Describes one listed input: a video, or a file of stacked episodes. It survives JSON."""

    uri: str
    num_bytes: int
    """0 if the listing does not know the size."""
    split: Split | None
    """The split for which the user gave the source. None: the hash of the content decides."""
    labels_uri: str | None = None
    """URI of the labels beside the video; the file itself if it holds stacked episodes."""
    masks_uri: str | None = None
    """URI, without suffix, at which its masks lie if it has any."""
    reader: str = ""
    """Name of the reader in ``sources.LABELED_SOURCES``, or ``list_videos.WEBDATASET``; empty for
    videos and ``.npz``."""
    is_guess: bool = False
    """Whether the file's name does not say that it is a video. If it turns out to be none, that
    says nothing about the source."""
    piece: int | None = None
    """Number of the piece of a long video (``clip.pieces``); None means the whole video."""
    secret_uri: str = field(default="", repr=False)
    """The address with its signature or token, where ``uri`` lacks them. It is never stored
    (``secret_uris``)."""
    details: dict[str, Any] = field(default_factory=dict)
    """Data for the reader, ready for JSON."""
    refused: Refused | None = None
    """Set where the listing shows already that it cannot be used."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Names a listed file, or a file in a tar, that is not an input.

    Such files are counted, and each kind of them is reported once.
    """

    uri: str
    what: str
    """Kind of the file, e.g. ``.json``. There are few different kinds."""
    why: str


@dataclass(frozen=True)
class LeftOutKind:
    """Files that are left out for the same reason."""

    example: LeftOut
    num_files: int


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """Describes one processed video, whatever its result."""

    uri: str
    """A stacked episode has a URI like ``file.npz#3``."""
    video_id: str
    """32 hex digits of the content's hash; empty if it could not be read."""
    split: Split | None
    num_bytes: int
    duration_s: float
    """Seconds that clips and rejects must account for; 0 if the input is not a video."""
    episode_id: str = ""
    """Videos of one episode share this id and go to one split. Empty if the video is the
    episode."""
    is_rate_assumed: bool = False
    """Whether the frame rate is a default because the file does not give one."""
    decoder_fallback: str = ""
    """Why it was decoded on another device than asked for; empty if it was not."""
    span_s: tuple[float, float] | None = None
    """The span that the clips and rejects of a piece cover. None means the whole video."""
    is_member: bool = False
    """Whether the video is a file in a tar."""
    place: int = 0
    """Number among the videos of its input. If a row comes with the place of an earlier one, the
    video is processed again, and the earlier row and those that followed it do not count."""

    @property
    def covered_s(self) -> float:
        """Seconds that the clips and rejects of the video, or of a piece of it, cover."""
        start_s, end_s = self.span_s or (0.0, self.duration_s)
        return end_s - start_s


@dataclass(frozen=True, kw_only=True)
class LongVideo:
    """Stands for the rows of a video that will be processed piece by piece."""

    video: VideoRow
    spans_s: tuple[tuple[float, float], ...]
    """Start and end of each piece."""


@dataclass(frozen=True, kw_only=True)
class LabelSums:
    """Holds sums over the pairs of one clip, from which the set's statistics are computed."""

    num_rows: int
    total: tuple[float, ...] = ()
    """Sum per dimension, like the next six fields; empty for discrete actions."""
    total_squares: tuple[float, ...] = ()
    smallest: tuple[float, ...] = ()
    largest: tuple[float, ...] = ()
    buckets: tuple[tuple[tuple[int, int], ...], ...] = ()
    """Pairs of a bucket's number and its count (``action_statistics``)."""
    low: tuple[float, ...] = ()
    """Bounds of the action space if the labels give them, else the smallest values."""
    high: tuple[float, ...] = ()
    is_bounded: bool = False
    """Whether ``low`` and ``high`` are the bounds of the action space."""
    num_choices: int = 0
    """For discrete actions: the largest action in the clip, plus one."""
    num_state: int = 0
    """Size of a state vector; 0 without states. ``num_condition`` is likewise."""
    num_condition: int = 0

    @property
    def kind(self) -> str:
        """Describes the sizes of one row in words. All clips of a shard set have the same kind."""
        action = f"actions of {len(self.total)} numbers" if self.total else "discrete actions"
        more = (("states", self.num_state), ("conditions", self.num_condition))
        return ", ".join([action, *(f"{name} of {size}" for name, size in more if size)])


@dataclass(frozen=True, kw_only=True)
class EncodedClip:
    """Carries one clip from the encoder into a part. Only this row holds bytes."""

    record: ClipRecord
    """The record of the clip, its split not yet decided."""
    video: bytes
    labels: Labels | None
    label_sums: LabelSums | None
    signature: str
    """Signature of the clip's look (``measure.signature``); empty unless duplicates are dropped."""


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """Carries consecutive frames of a video as they are, for a model that sees whole videos.

    There is one for each coded frame of the file. A frame that does not decode shows the last one
    that does.
    """

    start_s: float
    """The span that the frames cover in the video. The first frame of a file is at 0."""
    end_s: float
    times_s: np.ndarray = field(repr=False)
    """float64 [T], when each frame is shown."""
    pixels: np.ndarray = field(repr=False)
    """uint8 RGB [T, H, W, 3]."""


@dataclass(frozen=True, kw_only=True)
class ClipRow:
    """Describes one encoded clip that lies in a part."""

    record: ClipRecord
    part: str
    """File name of the part's tar."""
    video_offset: int
    labels_offset: int = 0
    labels_bytes: int = 0
    label_sums: LabelSums | None = None


Row = VideoRow | EncodedClip | RejectRow | LongVideo | LeftOut | VideoFrames


def at_place(rows: Iterable[Row], place: int) -> Iterator[Row]:
    """Yields the rows of one video with its place."""
    for row in rows:
        yield replace(row, place=place) if isinstance(row, VideoRow) else row


def rows_that_count(rows: Iterable[Row]) -> list[Row]:
    """Returns an input's rows without those of videos that were processed again."""
    current: list[Row] = []
    videos = {-1: current}
    for row in rows:
        if isinstance(row, VideoRow):
            current = videos[row.place] = []
        current.append(row)
    return list(chain.from_iterable(videos.values()))


@dataclass(frozen=True, kw_only=True)
class ItemRows:
    """Holds all rows of one listed input."""

    videos: tuple[VideoRow, ...] = ()
    clips: tuple[ClipRow, ...] = ()
    rejects: tuple[RejectRow, ...] = ()
    long_video: LongVideo | None = None
    """Set where pieces hold the rows."""
    left_out: tuple[LeftOutKind, ...] = ()
    """Members of a tar that are not inputs."""

    @property
    def num_members(self) -> int:
        """Returns the number of members of a tar that were read."""
        return sum(video.is_member for video in self.videos)
