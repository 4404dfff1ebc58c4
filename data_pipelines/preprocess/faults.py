"""Turns the failure of one input into a reject row, and raises what concerns the whole job.

Listing, opening, decoding and reading labels all pass through here, so readers may raise anything.
"""

import errno
import os
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace

from data_pipelines.preprocess.rejects import Refused, RejectRow
from data_pipelines.preprocess.rows import (
    EncodedClip,
    LongVideo,
    Row,
    VideoFrames,
    VideoItem,
    VideoRow,
)
from lafp.config import ConfigError
from lafp.data.shards.format import Split
from lafp.storage import CredentialsError, FullError, NotAFileError, UnreachableError
from lafp.storage.secrets import text_without_secrets
from lafp.video.decoders.base import VideoError

# Spans of one video touch exactly; this allows for float rounding over hours.
TOLERANCE_S = 1e-3
# If such errors became rejects, one outage would reject every later input.
_OF_THE_JOB = UnreachableError, CredentialsError, FullError, ConfigError, MemoryError
# Errors of this machine, its disk or its mounts: any other input would meet them too.
_OF_THE_MACHINE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
}
_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG}


def concerns_the_job(error: BaseException) -> bool:
    """Says whether the error would hit every other input as well."""
    if isinstance(error, _OF_THE_JOB):
        return True
    return isinstance(error, OSError) and error.errno in _OF_THE_MACHINE


def video_error(error: Exception, otherwise: str = "failed") -> VideoError:
    """Converts an exception of an input to the reason and detail of its reject row.

    Args:
        error: Any exception.
        otherwise: The reason for an error that is neither a ``VideoError`` nor an ``OSError``.

    Raises:
        Exception: ``error`` itself, if it concerns the whole job.
    """
    if isinstance(error, VideoError):
        return error
    if concerns_the_job(error):
        raise error
    if not isinstance(error, OSError):
        *_, at = traceback.extract_tb(error.__traceback__) or [None]
        where = f" ({at.filename.rpartition('/')[2]}:{at.lineno})" if at else ""
        return VideoError(otherwise, f"{type(error).__name__}: {error}{where}")
    if isinstance(error, NotAFileError | IsADirectoryError):
        reason = "not_a_file"
    elif isinstance(error, FileNotFoundError) or error.errno in _NO_SUCH_FILE:
        reason = "not_found"
    else:
        reason = "unreadable"
    name = os.path.basename(os.fsdecode(error.filename)) if error.filename else ""
    detail = ": ".join(filter(None, (name, error.strerror))) or str(error) or type(error).__name__
    return VideoError(reason, storable_text(detail))


def guarded(rows: Iterator[Row], item: VideoItem) -> Iterator[Row]:
    """Yields the rows of one open video; if it fails, the rest of the video becomes a reject.

    Rows that do not cover each second of the video exactly once are a fault of lafp. Even such a
    fault costs only this video, not the job.

    Args:
        rows: The video's row, then its clips and rejects.
        item: The input that holds the video, with the video's own URI.
    """
    progress = VideoProgress()
    try:
        for row in rows:
            row = _storable(row)
            progress.add(row)
            yield row
    except Exception as error:
        found = video_error(error)
        if progress.video is None:
            yield from rejected_input(item, Refused(found.reason, found.detail))
            return
        yield progress.give_up(found.reason, found.detail)
    if progress.video is not None and (what := progress.uneven()):
        # The whole video is rejected, because it is not known which of its rows are wrong.
        yield progress.video  # the rows so far do not count
        yield _reject(
            progress.video, *progress.whole_s, Refused("failed", f"{what}. Please report this")
        )


class VideoProgress:
    """Tracks how far the rows of one video cover it."""

    def __init__(self) -> None:
        self.video: VideoRow | None = None
        self.spans: list[tuple[float, float]] = []
        self._is_long = False

    @property
    def whole_s(self) -> tuple[float, float]:
        """Returns the span in seconds that clips and rejects must cover."""
        assert self.video is not None
        return self.video.span_s or (0.0, self.video.duration_s)

    @property
    def covered_s(self) -> float:
        """Returns the time up to which clips and rejects cover the video."""
        return self.spans[-1][1] if self.spans else self.whole_s[0]

    def uneven(self) -> str:
        """Describes gaps or overlaps of the rows, or a wrong end; empty if there are none."""
        return "" if self._is_long else uneven(self.spans, *self.whole_s)

    def add(self, row: Row) -> None:
        """Takes note of the next row."""
        if isinstance(row, VideoRow):
            self.video, self.spans = row, []
        elif isinstance(row, RejectRow | VideoFrames):
            self.spans.append((row.start_s, row.end_s))
        elif isinstance(row, EncodedClip):
            self.spans.append((row.record.start_s, row.record.end_s))
        elif isinstance(row, LongVideo):
            self._is_long = True

    def give_up(self, reason: str, detail: str) -> RejectRow:
        """Makes one reject of the rest of the video."""
        assert self.video is not None
        end_s = self.whole_s[1]
        row = _reject(self.video, min(self.covered_s, end_s), end_s, Refused(reason, detail))
        self.add(row)
        return row


def uneven(spans: Iterable[tuple[float, float]], start_s: float, end_s: float) -> str:
    """Describes where clips and rejects leave gaps or overlap; empty if they do neither."""
    covered_s, is_empty = start_s, True
    for low_s, high_s in sorted(spans):
        if abs(low_s - covered_s) > TOLERANCE_S:
            return (
                f"clips and rejects cover it up to {covered_s:.3f} s and continue at {low_s:.3f} s"
            )
        covered_s, is_empty = high_s, False
    if is_empty or abs(covered_s - end_s) > TOLERANCE_S:
        return f"clips and rejects cover {covered_s:.3f} s of its {end_s:.3f} s"
    return ""


def rejected_item(uri: str, split: Split | None, why: Refused) -> VideoItem:
    """Makes an input that becomes a reject row. Its message is stored, and so holds no secret."""
    refused = replace(why, detail=_storable_detail(why.detail))
    return VideoItem(uri=uri, num_bytes=0, split=split, refused=refused)


def rejected_input(
    item: VideoItem, why: Refused, is_member: bool = False
) -> Iterator[VideoRow | RejectRow]:
    """Yields the rows of an input, or of a file in one, that could not be opened."""
    video = VideoRow(
        uri=storable_text(item.uri),
        video_id="",
        split=item.split,
        num_bytes=item.num_bytes,
        duration_s=0.0,
        is_member=is_member,
    )
    yield video
    yield _reject(video, 0.0, 0.0, why)


def _reject(video: VideoRow, start_s: float, end_s: float, why: Refused) -> RejectRow:
    return RejectRow(
        video_uri=video.uri,
        start_s=start_s,
        end_s=end_s,
        reason=why.reason,
        detail=_storable_detail(why.detail),
        original_uri=why.original_uri and _storable_detail(why.original_uri),
    )


def _storable(row: Row) -> Row:
    return replace(row, detail=_storable_detail(row.detail)) if isinstance(row, RejectRow) else row


def _storable_detail(detail: str) -> str:
    """Makes a message storable. It may quote the address that a host redirected to."""
    return storable_text(text_without_secrets(detail))


def storable_text(text: str) -> str:
    """Escapes bytes that are no characters: messages may quote them, but JSON cannot hold them."""
    return text.encode(errors="backslashreplace").decode()
