"""Every kind of row arrives in the other process as it was sent, and in its time."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import pytest

from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import (
    EncodedClip,
    LabelSums,
    LeftOut,
    LongVideo,
    Row,
    VideoFrames,
    VideoRow,
)
from data_pipelines.preprocess.sandbox.messages import (
    CLIP_KINDS,
    FRAME_KINDS,
    Messages,
    TimeLimit,
    row_of,
    send_row,
)
from lafp.data.shards.format import ClipRecord, Labels

ROOT = Path(__file__).parents[4]
VIDEO = VideoRow(
    uri="a/\udcff.mp4",
    video_id="0" * 32,
    split="val",
    num_bytes=7,
    duration_s=2.0,
    span_s=(0.0, 1.5),
)
RECORD = ClipRecord(
    clip_id="c",
    video_id="0" * 32,
    video_uri=VIDEO.uri,
    source="s",
    episode_id="e",
    split="train",
    start_s=0.0,
    end_s=0.3,
    fps=10.0,
    width_px=16,
    height_px=12,
    num_frames=3,
    source_fps=30.0,
    source_width_px=32,
    source_height_px=24,
    source_codec="h264",
    motion=0.1,
    has_labels=True,
    num_bytes=2,
)
SUMS = LabelSums(num_rows=3, total=(1.0, 2.0), buckets=(((4, 2), (5, 1)), ()))
ROWS = [
    VIDEO,
    LongVideo(video=VIDEO, spans_s=((0.0, 1.0), (1.0, 2.0))),
    RejectRow(video_uri="a.mp4", start_s=0.5, end_s=1.0, reason="damaged", detail="a block"),
    LeftOut(uri="a.json", what=".json", why="is not a video"),
    EncodedClip(
        record=RECORD,
        video=b"\x00\x01",
        labels=Labels(true_action=np.ones((3, 2), np.float32)),
        label_sums=SUMS,
        signature="1f",
    ),
    EncodedClip(record=RECORD, video=b"", labels=None, label_sums=None, signature=""),
    VideoFrames(
        start_s=0.5,
        end_s=0.7,
        times_s=np.array([0.5, 0.6]),
        pixels=np.arange(2 * 3 * 5 * 3, dtype=np.uint8).reshape(2, 3, 5, 3),
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_arrives_as_it_was_sent(row):
    ours, theirs = map(Messages, socket.socketpair())
    send_row(row, ours)
    message, data = theirs.receive()
    assert message["kind"] in (*CLIP_KINDS, *FRAME_KINDS)
    arrived = row_of(message, data)
    assert type(arrived) is type(row)
    if isinstance(row, EncodedClip) and row.labels is not None:
        np.testing.assert_array_equal(arrived.labels.true_action, row.labels.true_action)
        assert (arrived.record, arrived.video) == (row.record, row.video)
        assert (arrived.label_sums, arrived.signature) == (row.label_sums, row.signature)
    elif isinstance(row, VideoFrames):
        np.testing.assert_array_equal(arrived.pixels, row.pixels)
        np.testing.assert_array_equal(arrived.times_s, row.times_s)
        assert (arrived.start_s, arrived.end_s) == (row.start_s, row.end_s)
    else:
        assert arrived == row


def test_no_kind_of_row_is_left_out():
    assert {type(row) for row in ROWS} == set(get_args(Row))


def test_a_signature_that_is_no_text_is_no_message():
    ours, theirs = map(Messages, socket.socketpair())
    send_row(ROWS[-2], ours)
    message, data = theirs.receive()
    with pytest.raises(EOFError):
        row_of(message | {"signature": [1]}, data)


def test_the_time_of_the_other_end_is_limited_in_both_directions():
    ours, _theirs = socket.socketpair()
    messages = Messages(ours)
    for wait in (messages.receive, lambda: messages.send({}, bytes(2**24))):
        messages.limit, begin_s = TimeLimit(0.3), time.monotonic()
        with pytest.raises(TimeoutError):
            wait()
        assert 0.3 <= time.monotonic() - begin_s < 60


LISTENER = """
import socket, sys
from data_pipelines.preprocess.sandbox.messages import Messages, TimeLimit

messages = Messages(socket.socket(fileno=int(sys.argv[1])))
messages.limit = TimeLimit(3.0)
messages.send({"kind": "ready"})
message, _ = messages.receive()
sys.exit(message["kind"] != "end")
"""


def test_time_in_which_this_process_was_stopped_does_not_count():
    ours, theirs = socket.socketpair()
    messages = Messages(ours)
    command = [sys.executable, "-c", LISTENER, str(theirs.fileno())]
    listener = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
    messages.receive()
    os.kill(listener.pid, signal.SIGSTOP)
    while psutil.Process(listener.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    time.sleep(4.0)
    os.kill(listener.pid, signal.SIGCONT)
    time.sleep(0.5)  # it goes on to wait, and finds nothing yet
    messages.send({"kind": "end"})
    assert listener.wait(60) == 0


@pytest.mark.parametrize(
    "false",
    [{"size": [3, 6]}, {"size": [-1, -5]}, {"times_s": [0.5, "x"]}, {"end_s": None}, {"size": 7}],
    ids=str,
)
def test_frames_that_contradict_their_message_are_no_message(false):
    ours, theirs = map(Messages, socket.socketpair())
    send_row(ROWS[-1], ours)
    message, data = theirs.receive()
    with pytest.raises(EOFError):
        row_of(message | false, data)
