"""Defines the result of opening an input: a probed video, ready to be decoded, with its labels."""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_pipelines.preprocess.clip.labels.flawed import cut_out
from data_pipelines.preprocess.clip.labels.read import EpisodeLabels, LabelsConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.faults import video_error
from data_pipelines.preprocess.rejects import Refused
from data_pipelines.preprocess.sources.file_kinds import kind_of_content
from lafp.video.decoders.base import (
    DamagedSpan,
    DecodedFrame,
    IsWanted,
    VideoDecoder,
    VideoError,
    VideoInfo,
)

FramesFrom = Callable[
    [int, int, float, IsWanted | None, bool], Iterator[DecodedFrame | DamagedSpan]
]
"""Width, height, start in seconds, wanted frames, whether the video has shown damage -> the events
of a video decoder."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Holds one probed video."""

    uri: str
    video_id: str
    """32 hex digits of the content's hash."""
    episode_id: str = ""
    """Id that all cameras of one episode share; empty if the video is the episode."""
    num_bytes: int
    info: VideoInfo
    frames: Callable[[int, int], Iterator[DecodedFrame | DamagedSpan]]
    """Width, height -> the events of a video decoder."""
    labels: Callable[[], EpisodeLabels] | None
    """Reads the labels; may raise ``VideoError``."""
    is_rate_assumed: bool = False
    """Whether its rate is a default because the file does not give one."""
    masks: "Callable[[float], Opened] | None" = None
    """Opens its masks, given its frame rate; may raise ``VideoError``. None if there are none."""
    frames_from: FramesFrom | None = None
    """Yields frames from somewhere before a start; None if decoding cannot start late."""


def without(video: Opened, spans: Sequence[DamagedSpan]) -> Opened:
    """Returns a video whose frames in these spans are cut out."""
    if not spans:
        return video

    def frames(width_px: int, height_px: int) -> Iterator[DecodedFrame | DamagedSpan]:
        return cut_out(video.frames(width_px, height_px), spans)

    def frames_from(
        width_px: int, height_px: int, start_s: float, _: IsWanted | None, is_suspect: bool
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        assert video.frames_from is not None
        # All frames are wanted, because the frame plan does not know of these cuts.
        found = video.frames_from(width_px, height_px, start_s, None, is_suspect)
        return cut_out(found, spans)

    return replace(video, frames=frames, frames_from=video.frames_from and frames_from)


@dataclass(frozen=True)
class Unusable:
    """Describes a video in a file that cannot be used. Other videos of the file may be usable."""

    uri: str
    reason: str
    """A key of ``rejects.REASONS``."""
    detail: str
    original_uri: str | None = None
    """The equal file that is used instead."""

    @property
    def why(self) -> Refused:
        """Returns all but the URI."""
        return Refused(self.reason, self.detail, self.original_uri)


@dataclass(frozen=True, kw_only=True)
class OpenWith:
    """Holds the settings with which a source opens its items."""

    labels: LabelsConfig
    video_decoder: VideoDecoder
    max_pixels: int
    deadline: float
    """``time.monotonic()`` at which to give up."""


def content_hash(path: Path) -> str:
    """Returns the first 32 hex digits of the file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def open_file(
    path: Path,
    uri: str,
    limits: LimitsConfig,
    video_decoder: VideoDecoder,
    labels: Callable[[], EpisodeLabels] | None = None,
) -> Opened:
    """Opens a local file that is one video.

    Raises:
        VideoError: The file is not a video.
    """
    deadline = time.monotonic() + limits.timeout_s
    video_id = content_hash(path)
    info = probe_file(path, video_decoder, limits.max_pixels, deadline)
    return Opened(
        uri=uri,
        video_id=video_id,
        num_bytes=path.stat().st_size,
        info=info,
        frames=lambda width, height: video_decoder.frames(str(path), info, width, height, deadline),
        labels=labels,
        frames_from=(
            partial(_frames_from, video_decoder, path, info, deadline)
            if info.can_start_late
            else None
        ),
    )


def _frames_from(
    video_decoder: VideoDecoder,
    path: Path,
    info: VideoInfo,
    deadline: float,
    width_px: int,
    height_px: int,
    start_s: float,
    is_wanted: IsWanted | None,
    is_suspect: bool,
) -> Iterator[DecodedFrame | DamagedSpan]:
    return video_decoder.frames(
        str(path), info, width_px, height_px, deadline, start_s, is_wanted, is_suspect
    )


def probe_file(
    path: Path, video_decoder: VideoDecoder, max_pixels: int, deadline: float
) -> VideoInfo:
    """Probes a file with the video decoder.

    Raises:
        VideoError: For any error of the decoder, because a bad file must not stop the job.
    """
    try:
        return video_decoder.probe(str(path), max_pixels, deadline)
    except VideoError as error:
        if error.reason == "not_a_video" and (kind := _kind_of(path)):
            raise VideoError(error.reason, kind) from error
        raise
    except Exception as error:
        raise video_error(error, "does_not_decode") from error


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        return kind_of_content(file.read(256))
