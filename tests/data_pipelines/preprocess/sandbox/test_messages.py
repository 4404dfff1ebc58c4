"""Every kind of row arrives in the other process as it was sent."""

import socket
from typing import get_args

import numpy as np
import pytest

from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import (
    EncodedClip,
    LabelSums,
    LeftOut,
    LongVideo,
    Row,
    VideoRow,
)
from data_pipelines.preprocess.sandbox.messages import ROW_KINDS, Messages, row_of, send_row
from lafp.data.shards.format import ClipRecord, Labels

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
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_arrives_as_it_was_sent(row):
    ours, theirs = map(Messages, socket.socketpair())
    send_row(row, ours)
    message, data = theirs.receive()
    assert message["kind"] in ROW_KINDS
    arrived = row_of(message, data)
    assert type(arrived) is type(row)
    if isinstance(row, EncodedClip) and row.labels is not None:
        np.testing.assert_array_equal(arrived.labels.true_action, row.labels.true_action)
        assert (arrived.record, arrived.video) == (row.record, row.video)
        assert (arrived.label_sums, arrived.signature) == (row.label_sums, row.signature)
    else:
        assert arrived == row


def test_no_kind_of_row_is_left_out():
    assert {type(row) for row in ROWS} == set(get_args(Row))


def test_a_signature_that_is_no_text_is_no_message():
    ours, theirs = map(Messages, socket.socketpair())
    send_row(ROWS[-1], ours)
    message, data = theirs.receive()
    with pytest.raises(EOFError):
        row_of(message | {"signature": [1]}, data)
