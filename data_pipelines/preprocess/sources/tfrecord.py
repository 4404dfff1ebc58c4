"""Reads TFRecord files of ``tf.train.Example`` without TensorFlow."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.preprocess.sources.file_kinds import kind_of_content
from lafp.video.decoders.base import VideoError

Features = dict[str, "list[bytes] | np.ndarray"]
"""Feature name -> byte strings, float32 or int64 values."""

# The polynomial of CRC-32C, which zlib does not compute.
_CASTAGNOLI = 0x82F63B78


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file.

    It verifies only the checksums of the records' lengths, which show whether the framing of the
    file is intact. Verifying the data would cost more than decoding it.

    Raises:
        VideoError: ``does_not_decode`` or ``truncated``. The records before the error are sound.
    """
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        while header := file.read(12):
            at = file.tell() - len(header)
            if len(header) < 12:
                raise VideoError("truncated", f"the file ends inside the header at byte {at}")
            length, checksum = struct.unpack("<QI", header)
            if checksum != masked_crc32c(header[:8]):
                kind = kind_of_content(header + file.read(256)) if at == 0 else ""
                what = f"it is {kind}" if kind else f"no valid TFRecord at byte {at}"
                raise VideoError("does_not_decode", what)
            # The length is compared with the file first: a broken one could ask for any amount of
            # memory.
            data = file.read(length + 4) if length + 4 <= num_bytes - file.tell() else b""
            if len(data) < length + 4:
                raise VideoError("truncated", f"the file ends inside the record at byte {at}")
            # The last four bytes are the checksum of the data.
            yield data[:-4]


def masked_crc32c(data: bytes) -> int:
    """Computes TFRecord's checksum bit by bit, which is fast enough for a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CASTAGNOLI if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    # TFRecord masks its checksums like this.
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(record: bytes) -> Features:
    """Parses the features of a serialized ``tf.train.Example``.

    Raises:
        ValueError: The bytes are not an example.
    """
    features: Features = {}
    for _, example in _fields(memoryview(record), {1}):
        for _, entry in _fields(example, {1}):
            parts = dict(_fields(entry, {1, 2}))
            # Protobuf leaves out what is empty. An odd name must not cost the other features.
            name = bytes(parts.get(1, b"")).decode(errors="backslashreplace")
            features[name] = _feature(parts.get(2, memoryview(b"")))
    return features


def _feature(message: memoryview) -> "list[bytes] | np.ndarray":
    """Parses the ``oneof`` of ``tf.train.Feature``: bytes, floats or integers."""
    for kind, values in _fields(message, {1, 2, 3}):
        if kind == 1:
            return [bytes(value) for _, value in _fields(values, {1})]
        if kind == 2:
            chunks = [np.frombuffer(chunk, "<f4") for _, chunk in _fields(values, {1})]
            return np.concatenate([np.zeros(0, np.float32), *chunks])
        return np.array(list(_integers(values)), np.int64)
    return []


def _integers(values: memoryview) -> Iterator[int]:
    for _, packed in _fields(values, {1}, is_integer=True):
        at = 0
        while at < len(packed):
            value, at = _varint(packed, at)
            # Negative int64 values are stored as unsigned numbers of 64 bits.
            yield value - (1 << 64) if value >> 63 else value


def _fields(
    message: memoryview, wanted: set[int], is_integer: bool = False
) -> Iterator[tuple[int, memoryview]]:
    """Yields number and content of the wanted fields; with ``is_integer`` also single varints."""
    at = 0
    while at < len(message):
        tag, start = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(message, start)
        elif wire in (1, 5):
            at = start + (8 if wire == 1 else 4)
        elif wire == 2:
            length, start = _varint(message, start)
            at = start + length
        else:
            raise ValueError(f"wire type {wire} in a protobuf message")
        if at > len(message):
            raise ValueError("a protobuf message ends inside a field")
        if tag >> 3 in wanted and (wire != 0 or is_integer):
            yield tag >> 3, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Returns the value, and the index after it."""
    value = 0
    # Ten bytes hold 64 bits. A hostile file must not make the number longer.
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:  # the tenth byte has room for more bits than an int64 takes
                raise ValueError("a number in a protobuf message has more than 64 bits")
            return value, at
    raise ValueError("a protobuf message ends inside a number")
