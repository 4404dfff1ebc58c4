"""Turns one input into clips and rejects, in bounded memory. Does not use Ray."""

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from data_pipelines.preprocess.clip import probe
from data_pipelines.preprocess.clip.filters import cadence
from data_pipelines.preprocess.clip.finish_clip import finish_clip
from data_pipelines.preprocess.clip.labels.read import EpisodeLabels, align
from data_pipelines.preprocess.clip.masks import MaskReader, open_masks
from data_pipelines.preprocess.clip.pace import Pace, pace_of
from data_pipelines.preprocess.clip.pieces import Span, piece_spans
from data_pipelines.preprocess.clip.resample import Cut, FramePlan, resample
from data_pipelines.preprocess.clip.resize import crop_or_pad, scaled_size
from data_pipelines.preprocess.clip.split_clips import ClipFrames, split_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.faults import guarded, rejected_input, storable_text, video_error
from data_pipelines.preprocess.rejects import Refused, RejectRow
from data_pipelines.preprocess.rows import (
    LeftOut,
    LongVideo,
    Row,
    VideoItem,
    VideoRow,
    at_place,
    rows_that_count,
)
from data_pipelines.preprocess.sources.list_videos import WEBDATASET
from data_pipelines.preprocess.sources.open_item import open_item
from data_pipelines.preprocess.sources.opened import Opened, Unusable, without
from lafp import storage
from lafp.video.decoders.base import VideoDecoder, VideoError, VideoInfo

# A header that promises this much more than the file holds means truncation, not rounding.
_TRUNCATED_S = 0.5


def video_to_clips(
    item: VideoItem, cfg: PreprocessConfig, video_decoder: VideoDecoder
) -> Iterator[Row]:
    """Turns one input into rows.

    Per video (a file of stacked episodes holds several) it yields one ``VideoRow``, then clips and
    rejects that together cover its seconds. A bad file is rows too, never an exception. Files in a
    tar that are no inputs are ``LeftOut``.

    Raises:
        StorageError: S3 did not answer; the job can be resumed.
    """
    for rows in item_videos(item, cfg, video_decoder):
        yield from rows_that_count(rows)


def item_videos(
    item: VideoItem,
    cfg: PreprocessConfig,
    video_decoder: VideoDecoder,
    may_defer: bool = False,
    rows_of: Callable[[Opened], Iterator[Row]] | None = None,
) -> Iterator[Iterator[Row]]:
    """Yields the rows of each video of an input. A video decodes only while its rows are read.

    Rows come as soon as they are made. Another ``VideoRow`` says that the video is processed again
    (``VideoRow.place``).

    Args:
        item: The input.
        cfg: The job's config.
        video_decoder: The configured video decoder.
        may_defer: Whether a long video that is an input of its own becomes a ``LongVideo``.
        rows_of: Video -> its row, then rows that cover it. None: its clips and rejects.
    """
    # Videos that are downloaded or lie in a tar are not deferred, so that they are fetched once.
    may_defer &= not item.reader and item.piece is None and not storage.is_http(item.uri)
    if item.refused is not None:
        yield at_place(rejected_input(item, item.refused), 0)
        return
    rows_of = rows_of or partial(_one_video, cfg=cfg, item=item, may_defer=may_defer)
    uris: set[str] = set()
    with closing(open_item(item, cfg, video_decoder)) as videos:
        for place in count():
            try:
                video = next(videos, None)
            except Exception as error:
                found = video_error(error)
                rest = replace(item, uri=_distinct(item.uri, place, uris))
                yield at_place(rejected_input(rest, Refused(found.reason, found.detail)), place)
                return
            if video is None:
                if place == 0:
                    yield rejected_input(item, Refused("no_frames", "it holds no episodes"))
                return
            video = replace(video, uri=storable_text(video.uri))
            if isinstance(video, LeftOut):
                yield iter((video,))
                continue
            video = replace(video, uri=_distinct(video.uri, place, uris))
            here = replace(item, uri=video.uri, num_bytes=0)
            if isinstance(video, Unusable):
                unusable = rejected_input(here, video.why, _is_member(item))
                yield at_place(unusable, place)
            else:
                yield at_place(guarded(rows_of(video), here), place)


def _distinct(uri: str, place: int, uris: set[str]) -> str:
    """Returns a URI that no earlier video of the input has, and adds it to ``uris``.

    Rows belong to a video by its URI. But a file may hold two cameras that are called the same,
    e.g. ``obs/front`` and ``images/front``, or another name may be escaped to the same text.
    """
    while uri in uris:
        uri += f"@{place}"
    uris.add(uri)
    return uri


def _is_member(item: VideoItem) -> bool:
    """Tells whether the item is a tar whose files are the videos."""
    return item.reader == WEBDATASET


def _one_video(
    video: Opened, cfg: PreprocessConfig, item: VideoItem, may_defer: bool
) -> Iterator[Row]:
    info = video.info
    is_truncated = info.declared_duration_s - info.duration_s > _TRUNCATED_S
    total_s = info.declared_duration_s if is_truncated else info.duration_s
    row = row_of_video(video, item, total_s)
    reject = partial(RejectRow, video_uri=video.uri)
    try:
        if found := probe.violation(info, cfg.limits):
            raise VideoError(*found)
        beside = _read_beside(video)
    except VideoError as error:
        yield row
        yield reject(start_s=0.0, end_s=total_s, reason=error.reason, detail=error.detail)
        return
    # Label rows and masks belong to frames, so the frames of such videos keep their times.
    is_bare = beside.labels is None and beside.masks is None
    pace = pace_of(video, cfg.clip if is_bare else replace(cfg.clip, undo_repeats=False))
    if beside.labels is not None:
        video = without(video, beside.labels.flawed_spans(info))
    pieces = _pieces(video, pace.fps, cfg)
    if may_defer and len(pieces) > 1:
        spans_s = (*pieces[:-1], (pieces[-1][0], total_s))
        yield LongVideo(video=row, spans_s=spans_s)
        return
    if item.piece is not None:
        pieces = pieces[item.piece : item.piece + 1]
        end_s = total_s if pieces[-1][1] == info.duration_s else pieces[-1][1]
        row = replace(row, span_s=(pieces[0][0], end_s))
    suspects: set[int] = set()
    while True:
        yield row
        new_suspect = yield from _piece_rows(video, pieces, pace, beside, cfg, suspects)
        if new_suspect is None:
            break
        suspects.add(new_suspect)
    # Only the last piece reaches the end of the video, so each missing end has one row, also if
    # every piece is a task of its own.
    if pieces[-1][1] == info.duration_s:
        yield from _missing_end(info, row.uri, total_s)


def row_of_video(video: Opened, item: VideoItem, duration_s: float) -> VideoRow:
    """Describes an opened video of an input, whose rows must cover ``duration_s``."""
    return VideoRow(
        uri=video.uri,
        video_id=video.video_id,
        split=item.split,
        num_bytes=video.num_bytes,
        duration_s=duration_s,
        episode_id=video.episode_id,
        is_rate_assumed=video.is_rate_assumed,
        decoder_fallback=video.info.fallback,
        is_member=_is_member(item),
    )


def _missing_end(info: VideoInfo, uri: str, end_s: float) -> Iterator[RejectRow]:
    """Yields rejects for seconds missing after the last packet, and for unread data there."""
    if end_s > info.duration_s:
        detail = f"the header promises {end_s:.3f} s, the file ends at {info.duration_s:.3f} s"
        yield RejectRow(
            video_uri=uri, start_s=info.duration_s, end_s=end_s, reason="truncated", detail=detail
        )
    if info.unread:  # the number of unread seconds is not known
        yield RejectRow(
            video_uri=uri, start_s=end_s, end_s=end_s, reason="damaged", detail=info.unread
        )


@dataclass(frozen=True)
class _Beside:
    """Holds what lies beside a video and belongs to its frames."""

    labels: EpisodeLabels | None
    masks: Opened | None


def _read_beside(video: Opened) -> _Beside:
    """Reads the labels and opens the masks of a video, and checks that both fit it.

    Raises:
        VideoError: They do not, or cannot be read.
    """
    try:
        labels = align(video.labels(), video.info) if video.labels else None
    except Exception as error:
        raise video_error(error, "no_labels") from error
    return _Beside(labels, open_masks(video))


def _pieces(video: Opened, fps: float, cfg: PreprocessConfig) -> list[Span]:
    if video.frames_from is None:
        return [(0.0, video.info.duration_s)]
    return piece_spans(video.info.duration_s, fps, cfg.piece_s, cfg.clip)


def _piece_rows(
    video: Opened,
    pieces: list[Span],
    pace: Pace,
    beside: _Beside,
    cfg: PreprocessConfig,
    suspects: Collection[int],
) -> Generator[Row, None, int | None]:
    """Yields clips and rejects of all pieces. Suspect pieces get all checks for damage.

    Returns:
        The number of a piece with damage of which more may be hidden, so that the video must be
        processed again with this piece as a suspect; None if there is none.
    """
    # The more expensive checks cost nearly as much as decoding, so only pieces that have shown
    # damage are decoded with them.
    may_hide = video.info.hides_damage and video.frames_from is not None
    for number, piece in enumerate(pieces):
        masks = None
        if beside.masks is not None:
            masks = MaskReader(beside.masks, video.info, cfg.resize)
        for span in _spans(video, piece, pace, cfg, number in suspects):
            if isinstance(span, ClipFrames):
                yield finish_clip(span, pace, video, beside.labels, masks, cfg)
                continue
            if may_hide and span.reason == "damaged" and number not in suspects:
                # The rows of the next attempt replace those of all pieces so far.
                return number
            yield RejectRow(
                video_uri=video.uri,
                start_s=span.start_s,
                end_s=span.end_s,
                reason=span.reason,
                detail=span.detail,
            )
    return None


def _spans(
    video: Opened, piece: Span, pace: Pace, cfg: PreprocessConfig, is_suspect: bool
) -> Iterator[ClipFrames | Cut]:
    """Yields clips and cuts that cover a piece. An error of the video decoder becomes a cut."""
    info, (start_s, end_s) = video.info, piece
    covered_s, size = start_s, scaled_size(info, cfg.resize)
    rate = {
        "fps": pace.fps,
        "source_fps": pace.picture_fps,
        "max_hold_s": cfg.clip.max_hold_s,
    }
    if video.frames_from is not None:
        # Repeats can only be found by comparing neighbours, so all frames are wanted.
        frame_plan = FramePlan(**rate, start_s=start_s) if pace.hold == 1 else None
        frames = video.frames_from(*size, start_s, frame_plan, is_suspect)
    else:
        frames = video.frames(*size)
    if pace.hold > 1:
        frames = cadence.drop_repeats(frames, pace.hold, info.fps)
    # The duration of the whole video, not of the piece, sets the length of clips, so that cutting a
    # video into pieces changes no clip.
    ticks = resample(frames, **rate, duration_s=end_s, start_s=start_s)
    try:
        fit = partial(crop_or_pad, cfg=cfg.resize)
        spans = split_clips(
            ticks, pace.fps, info.duration_s, cfg.clip, fit, start_s, cfg.filters.min_motion
        )
        for span in spans:
            yield span
            covered_s = span.end_s
    except Exception as error:  # a bad file costs itself, never the job
        reason = "out_of_memory" if isinstance(error, MemoryError) else "damaged"
        yield Cut(covered_s, end_s, reason, f"{type(error).__name__}: {error}")
