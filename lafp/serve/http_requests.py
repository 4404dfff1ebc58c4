"""Reads requests of HTTP/1.1 within limits, and writes answers.

The server needs a small part of HTTP: a method, a path, a few headers and a body of known length.
It reads these itself, because ``http.server`` serves each connection in a thread of its own, and
PyTorch keeps a pool of threads for each thread that runs a model.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 16 << 10
_LINGER_S = 2.0


@dataclass(frozen=True)
class Head:
    """Request line and headers."""

    method: str
    path: str
    headers: dict[str, str]
    """Values by lower-case name."""


@dataclass
class RefusedError(Exception):
    """A request that gets an error as its answer."""

    status: HTTPStatus
    message: str
    is_last: bool = False
    """Whether the connection ends with the answer, because the body was not read."""


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """Reads up to the empty line after the headers. Returns None if the connection has ended.

    Raises:
        RefusedError: It is no request of HTTP, or too long.
    """
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise _refused_head(f"are longer than {MAX_HEAD_BYTES} bytes") from None
    if len(raw) > MAX_HEAD_BYTES:
        raise _refused_head(f"are longer than {MAX_HEAD_BYTES} bytes")
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise _refused_head("do not begin with METHOD PATH HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        # A proxy may read a header that occurs twice in another way than this server.
        if not colon or not name or name != name.strip() or name.lower() in headers:
            raise _refused_head(f"hold the line {line[:40]!r}, a broken or repeated header")
        headers[name.lower()] = value.strip()
    return Head(words[0], words[1], headers)


def _refused_head(what: str) -> RefusedError:
    message = f"The request's headers {what}."
    return RefusedError(HTTPStatus.BAD_REQUEST, message, is_last=True)


def body_bytes(head: Head, max_bytes: int) -> int:
    """Returns the size of the body that follows.

    Raises:
        RefusedError: The size is not given, or is too large.
    """
    if "transfer-encoding" in head.headers:
        message = "The body comes in chunks, expected a Content-Length."
        raise RefusedError(HTTPStatus.LENGTH_REQUIRED, message, is_last=True)
    length = head.headers.get("content-length", "0")
    # ``isdecimal`` alone is true for digits of other scripts.
    if not (length.isascii() and length.isdecimal()) or len(length) > 18:
        message = f"Content-Length is {length[:40]!r}, expected a number of bytes."
        raise RefusedError(HTTPStatus.BAD_REQUEST, message, is_last=True)
    if int(length) > max_bytes:
        message = f"The body has {length} bytes, at most {max_bytes} are read."
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message, is_last=True)
    return int(length)


def write_answer(
    writer: asyncio.StreamWriter, status: HTTPStatus, body: bytes, is_last: bool
) -> None:
    """Writes an answer in MessagePack."""
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/msgpack",
        f"Content-Length: {len(body)}",
    ]
    if status == HTTPStatus.UNAUTHORIZED:
        lines.append("WWW-Authenticate: Bearer")
    if is_last:
        lines.append("Connection: close")
    # One write, so that the answer leaves in one packet where it fits.
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


async def discard_rest(reader: asyncio.StreamReader) -> None:
    """Reads on for a short time, so that a client that still sends its body gets the answer.

    A socket that is closed with unread bytes resets the connection, and the answer is lost.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(1 << 16):
                pass
