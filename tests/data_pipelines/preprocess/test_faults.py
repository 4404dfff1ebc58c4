"""One input that fails is a reject row, wherever it fails; what fails for the whole job is not."""

import errno
import os
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.faults import guarded, video_error
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import ItemRows, VideoItem, VideoRow, rows_that_count
from data_pipelines.preprocess.sources.open_item import open_item
from lafp.config import ConfigError
from lafp.storage import (
    AccessDeniedError,
    CredentialsError,
    FullError,
    NotAFileError,
    StorageError,
    UnreachableError,
)
from lafp.video.decoders.base import DecodedFrame, VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.cases import CFG, another_user
from tests.synthetic_video import moving_square, write_video

OF_ONE_INPUT = [
    ValueError("bad \udce9 value"),
    KeyError("x"),
    RecursionError(),
    ZeroDivisionError(),
    UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "no"),
    zlib.error("no"),
    EOFError(),
    AssertionError(),
    OSError("without a number"),
    OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"),
    FileNotFoundError(errno.ENOENT, "gone"),
    IsADirectoryError(errno.EISDIR, "a folder"),
    NotADirectoryError(errno.ENOTDIR, "no folder"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    AccessDeniedError("no"),
    StorageError("an answer that nobody knows"),
    NotAFileError("a pipe"),
    VideoError("too_small", "8x8"),
]
OF_THE_JOB = [
    UnreachableError("S3 is away"),
    CredentialsError("refused"),
    FullError("no room"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    ConfigError("install it"),
]


class Failing(PyAVDecoder):
    """A decoder that raises, when it probes or after some frames."""

    def __init__(self, error, at):
        super().__init__(PyAVConfig())
        self.error, self.at = error, at

    def probe(self, path, max_pixels, deadline):
        if self.at == "probe":
            raise self.error
        return super().probe(path, max_pixels, deadline)

    def frames(self, *args, **kwargs):
        for number, frame in enumerate(super().frames(*args, **kwargs)):
            if number == self.at:
                raise self.error
            yield frame


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "v.mp4", moving_square(40), fps=10)


def item(path, **more):
    return VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None, **more)


def rows_of(path, decoder, cfg=CFG, **more):
    rows = list(video_to_clips(item(path, **more), cfg, decoder))
    rejects = tuple(row for row in rows if isinstance(row, RejectRow))
    videos = tuple(row for row in rows if isinstance(row, VideoRow))
    clips = tuple(row for row in rows if not isinstance(row, RejectRow | VideoRow))
    check_accounts(ItemRows(videos=videos, clips=clips, rejects=rejects))
    for row in rejects:
        row.detail.encode()
    return clips, rejects


@given(st.sampled_from(OF_ONE_INPUT), st.sampled_from(["probe", 0, 25]))
@settings(deadline=None, max_examples=40)
def test_whatever_a_decoder_raises_is_a_reject_row(video, error, at):
    _, rejects = rows_of(video, Failing(error, at))
    assert len(rejects) == 1 and rejects[0].detail


def test_a_reason_is_told_from_the_error():
    reasons = [video_error(error).reason for error in OF_ONE_INPUT]
    assert reasons[:8] == 8 * ["failed"]
    assert reasons[8:] == [
        *3 * ["unreadable"],
        "not_found",
        "not_a_file",
        *2 * ["not_found"],
        *2 * ["unreadable"],
        "not_a_file",
        "too_small",
    ]


@pytest.mark.parametrize("error", OF_THE_JOB, ids=lambda error: type(error).__name__)
def test_what_concerns_the_whole_job_is_no_reject(error):
    with pytest.raises(type(error)):
        video_error(error)


def test_a_fault_of_the_pipeline_costs_one_video(video):
    class Backwards(PyAVDecoder):
        """Times that go backwards, which no decoder may yield."""

        def frames(self, *args, **kwargs):
            for frame in super().frames(*args, **kwargs):
                yield DecodedFrame(4.0 - frame.time_s, frame.pixels)

    _, rejects = rows_of(video, Backwards(PyAVConfig()))
    assert rejects


def uneven_rows(*spans):
    yield VideoRow(uri="v", video_id="1", split=None, num_bytes=1, duration_s=3.0)
    for start_s, end_s in spans:
        yield RejectRow(video_uri="v", start_s=start_s, end_s=end_s, reason="dark")


SPANS = st.lists(st.sampled_from([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]), max_size=4)


@given(SPANS)
def test_rows_that_leave_gaps_or_overlap_become_one_reject(spans):
    made = rows_that_count(
        guarded(uneven_rows(*spans), VideoItem(uri="v", num_bytes=1, split=None))
    )
    video, *rejects = made
    assert isinstance(video, VideoRow)
    check_accounts(ItemRows(videos=(video,), rejects=tuple(rejects)))
    if [row.reason for row in rejects] == ["failed"]:
        covered = sorted(second for start, end in spans for second in range(start, end))
        assert covered != [0, 1, 2] and "Please report this" in rejects[0].detail
    else:
        assert [(row.start_s, row.end_s) for row in rejects] == spans


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no_labels"),
        ("rubbish", "no_labels"),
        ("text", "no_labels"),
        ("closed", "unreadable"),
        ("loop", "unreadable"),
        ("pipe", "not_a_file"),
        ("folder", "not_a_file"),
    ],
)
def test_labels_that_cannot_be_read_cost_their_video(tmp_path, video, kind, reason):
    path = tmp_path / "v.mp4"
    path.write_bytes(video.read_bytes())
    labels = tmp_path / "v.npz"
    if kind == "closed":
        np.savez(labels, action=np.zeros((40, 2), np.float32))
        labels.chmod(0)
    elif kind == "pipe":
        os.mkfifo(labels)
    elif kind == "folder":
        labels.mkdir()
    elif kind == "loop":
        labels.symlink_to("v.npz")
    elif kind != "missing":
        labels.write_bytes(b"PK\x03\x04" + bytes(50) if kind == "rubbish" else b"text")
    cfg = replace(CFG, labels=LabelsConfig())
    with another_user(tmp_path):
        clips, rejects = rows_of(path, PyAVDecoder(PyAVConfig()), cfg, labels_uri=str(labels))
    assert clips == () and [row.reason for row in rejects] == [reason]
    assert rejects[0].end_s == pytest.approx(4.0) and "v.npz" in rejects[0].detail


def test_an_input_that_holds_nothing_is_a_reject_row(tmp_path):
    path = tmp_path / "empty.tfrecord"
    path.write_bytes(b"")
    cfg = replace(CFG, labels=LabelsConfig())
    _, rejects = rows_of(path, PyAVDecoder(PyAVConfig()), cfg, labels_uri=str(path), reader="rlds")
    assert [row.reason for row in rejects] == ["no_frames"]
    listed = item(path, labels_uri=str(path), reader="rlds")
    assert list(open_item(listed, cfg, PyAVDecoder(PyAVConfig()))) == []
