"""Sends rows between two processes as JSON and bytes. Nothing is unpickled."""

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import (
    EncodedClip,
    LabelSums,
    LeftOut,
    LongVideo,
    Row,
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
_CLIP = "clip"
ROW_KINDS = (_CLIP, *_ROWS)


class Messages:
    """Exchanges messages over one end of a socket pair: a JSON object and some bytes each."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._socket.setblocking(True)

    def send(self, message: Mapping[str, object], data: bytes = b"") -> None:
        """Sends one message, which may hold records.

        Raises:
            OSError: The other end is gone.
        """
        text = json.dumps(message, default=plain).encode()
        self._socket.sendall(_HEADER.pack(len(text), len(data)) + text + data)

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
        """Returns the next message.

        Args:
            deadline: ``time.monotonic()`` at which to give up.

        Raises:
            EOFError: The other end is gone, or sends what is no message.
            TimeoutError: The deadline passed.
        """
        text_bytes, data_bytes = _HEADER.unpack(self._read(_HEADER.size, deadline))
        if text_bytes + data_bytes > MAX_BYTES:
            raise EOFError
        text, data = self._read(text_bytes, deadline), self._read(data_bytes, deadline)
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise EOFError from None
        if not isinstance(message, dict):
            raise EOFError
        return message, data

    def send_file(self, file: BinaryIO) -> None:
        """Sends an open file, which stays readable when its name is gone."""
        socket.send_fds(self._socket, [_FILE_FOLLOWS], [file.fileno()])

    def receive_file(self) -> int:
        """Returns the descriptor of the file that ``send_file`` sent."""
        _, files, _, _ = socket.recv_fds(self._socket, len(_FILE_FOLLOWS), 1)
        if not files:
            raise EOFError
        return files[0]

    def close(self) -> None:
        """Closes this end."""
        self._socket.close()

    def _read(self, num_bytes: int, deadline: float | None) -> bytes:
        parts = []
        while num_bytes:
            if deadline is not None:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self._socket.recv(min(num_bytes, _READ_BYTES))
            # A process that is killed in the middle of a message resets the connection instead of
            # closing it.
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)


def send_row(row: Row, messages: Messages) -> None:
    """Sends one row."""
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
