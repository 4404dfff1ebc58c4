"""Sends rows between two processes as JSON and bytes. Nothing is unpickled."""

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeVar

import numpy as np

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
from lafp.data.shards.format import ClipRecord, Labels
from lafp.storage.strict_json import from_plain, plain

# A decoder that was broken into may send anything, so messages are JSON and bytes, never pickle.
_HEADER = struct.Struct("<II")
_READ_BYTES = 2**20
_FILE_FOLLOWS = b"f"
MAX_BYTES = 2**30
"""Size of a message that is refused. A clip is some megabytes."""
# How a row is called. A clip also has bytes.
_ROWS: dict[str, type[VideoRow | RejectRow | LongVideo | LeftOut]] = {
    "video": VideoRow,
    "reject": RejectRow,
    "long_video": LongVideo,
    "left_out": LeftOut,
}
_NAMES = {kind: name for name, kind in _ROWS.items()}
_CLIP, FRAMES = "clip", "frames"
CLIP_KINDS = (_CLIP, *_ROWS)
"""Rows of an input that becomes clips."""
FRAME_KINDS = (FRAMES, "video", "reject")
"""Rows of an input whose frames are wanted as they are."""
_LOOK_EVERY_S = 1.0
Result = TypeVar("Result")


class TimeLimit:
    """Limits how long the other process may take, while this process runs.

    Both run at the same time, but Ctrl-Z stops this one only. So of the time between two looks at
    the clock, at most ``_LOOK_EVERY_S`` count: else, when the job goes on, the other process would
    seem to have hung.
    """

    def __init__(self, limit_s: float) -> None:
        """Begins to count down from ``limit_s``."""
        self._left_s, self._looked_at_s = limit_s, time.monotonic()

    def left_s(self) -> float:
        """Returns the seconds that are left, which may be negative."""
        now_s = time.monotonic()
        self._left_s -= min(now_s - self._looked_at_s, _LOOK_EVERY_S)
        self._looked_at_s = now_s
        return self._left_s

    def wait_s(self) -> float:
        """Returns how long to wait before the next look."""
        return min(max(self.left_s(), 0.001), _LOOK_EVERY_S)


class Messages:
    """Exchanges messages over one end of a socket pair: a JSON object and some bytes each."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self.limit: TimeLimit | None = None
        """How long the other end may take from now on, for all that is sent and received."""

    def send(self, message: Mapping[str, object], data: bytes = b"") -> None:
        """Sends one message, which may hold records.

        Raises:
            OSError: The other end is gone.
            TimeoutError: It has used up its time.
        """
        text = json.dumps(message, default=plain).encode()
        left = memoryview(_HEADER.pack(len(text), len(data)) + text + data)
        while left:
            left = left[self._tried(self._socket.send, left) :]

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Returns the next message.

        Raises:
            EOFError: The other end is gone, or sends what is no message.
            TimeoutError: It has used up its time.
        """
        text_bytes, data_bytes = _HEADER.unpack(self._read(_HEADER.size))
        if text_bytes + data_bytes > MAX_BYTES:
            raise EOFError
        text, data = self._read(text_bytes), self._read(data_bytes)
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise EOFError from None
        if not isinstance(message, dict):
            raise EOFError
        return message, data

    def send_file(self, file: BinaryIO) -> None:
        """Sends an open file, which stays readable when its name is gone."""
        self._tried(socket.send_fds, self._socket, [_FILE_FOLLOWS], [file.fileno()])

    def receive_file(self) -> int:
        """Returns the descriptor of the file that ``send_file`` sent."""
        _, files, _, _ = self._tried(socket.recv_fds, self._socket, len(_FILE_FOLLOWS), 1)
        if not files:
            raise EOFError
        return files[0]

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

    def _read(self, num_bytes: int) -> bytes:
        parts = []
        while num_bytes:
            try:
                part = self._tried(self._socket.recv, min(num_bytes, _READ_BYTES))
            # A process that is killed in the middle of a message resets the connection instead of
            # closing it.
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)

    def _tried(self, call: Callable[..., Result], *args: object) -> Result:
        """Makes a call of the socket, again until the other end is ready or its time is used up."""
        while True:
            self._socket.settimeout(None if self.limit is None else self.limit.wait_s())
            try:
                return call(*args)
            except TimeoutError:
                if self.limit is None or self.limit.left_s() <= 0:
                    raise


def send_row(row: Row, messages: Messages) -> None:
    """Sends one row."""
    if isinstance(row, VideoFrames):
        message = {"kind": FRAMES, "start_s": row.start_s, "end_s": row.end_s}
        message |= {"times_s": row.times_s.tolist(), "size": row.pixels.shape[1:3]}
        messages.send(message, row.pixels.tobytes())
        return
    if not isinstance(row, EncodedClip):
        messages.send({"kind": _NAMES[type(row)], "row": row})
        return
    message = {
        "kind": _CLIP,
        "record": row.record,
        "num_bytes": len(row.video),
        "label_sums": row.label_sums,
        "signature": row.signature,
    }
    messages.send(message, row.video + (row.labels.to_bytes() if row.labels else b""))


def row_of(message: dict[str, Any], data: bytes) -> Row:
    """Restores the row that ``send_row`` sent.

    Raises:
        EOFError: It is no row, as a decoder that was broken into may send.
    """
    try:
        return _row_of(message, data)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError):
        raise EOFError from None


def _row_of(message: dict[str, Any], data: bytes) -> Row:
    if message["kind"] == FRAMES:
        span = {name: float(message[name]) for name in ("start_s", "end_s")}
        times_s, (height, width) = np.array(message["times_s"], np.float64), message["size"]
        pixels = np.frombuffer(data, np.uint8).reshape(len(times_s), height, width, 3)
        if not (pixels.size and np.isfinite([*span.values(), *times_s]).all()):
            raise ValueError("no frames, or no times")
        return VideoFrames(**span, times_s=times_s, pixels=pixels)
    if message["kind"] != _CLIP:
        return from_plain(_ROWS[message["kind"]], message["row"])
    video, labels = data[: message["num_bytes"]], data[message["num_bytes"] :]
    sums = message["label_sums"]
    if not isinstance(message["signature"], str):
        raise TypeError("a signature is text")
    return EncodedClip(
        record=from_plain(ClipRecord, message["record"]),
        video=video,
        labels=Labels.from_bytes(labels) if labels else None,
        label_sums=from_plain(LabelSums, sums) if sums else None,
        signature=message["signature"],
    )
