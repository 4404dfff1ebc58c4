"""Serves the page on loopback, to whoever knows the token in its URL.

A web page of a stranger cannot read it: a name that leads to 127.0.0.1 (DNS rebinding) is refused
by the ``Host`` header. Another user of the machine does not know the token. Only GET is answered,
so nothing can be changed.
"""

import hmac
import re
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote

from lafp import storage
from lafp.config import ConfigError
from lafp.view.answers import Answer, Answers, Span
from lafp.view.stored_clips import MissingError

HOST = "127.0.0.1"
_OUR_NAMES = {"127.0.0.1", "localhost"}
_IDLE_S = 60
_CHUNK_BYTES = 2 * 2**20
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # No copy of a video that was taken down must stay in a browser.
    "Cache-Control": "no-store",
}


class ViewServer(ThreadingHTTPServer):
    """Serves the answers at ``url`` until it is shut down.

    Args:
        answers: What to serve.
        port: Port on loopback; 0 takes a free one.

    Raises:
        ConfigError: The port cannot be used.
    """

    daemon_threads = True

    def __init__(self, answers: Answers, port: int = 0) -> None:
        self.answers = answers
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"--port {port} cannot be used: {error.strerror}. Leave it out to take a free one."
            ) from None

    @property
    def url(self) -> str:
        """Returns the address of the page, with the token."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: object) -> None:
        """Leaves out what happens when a browser closes a connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S
    server: ViewServer

    def do_GET(self) -> None:
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        path, _, query = self.path.partition("?")
        token, _, path = path.removeprefix("/").partition("/")
        if host not in _OUR_NAMES:
            self._refuse(
                403, "The server has another address. Use the URL that `lafp view` printed."
            )
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(
                403, "The token is missing or wrong. Use the URL that `lafp view` printed."
            )
        else:
            self._answer(unquote(path), dict(parse_qsl(query)))

    def _answer(self, path: str, asked: dict[str, str]) -> None:
        try:
            answer = self.server.answers.answer(path, asked)
        except (MissingError, FileNotFoundError) as error:
            self._refuse(404, str(error))
        except ValueError as error:
            self._refuse(400, str(error))
        except OSError as error:
            self._refuse(502, str(error))
        else:
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        span = answer.body
        if isinstance(span, bytes):
            self._send_head(200, answer.content_type, len(span))
            self.wfile.write(span)
            return
        wanted = byte_range(self.headers.get("Range"), span.num_bytes)
        if wanted is None:
            self._refuse(416, "", {"Content-Range": f"bytes */{span.num_bytes}"})
            return
        first, end = wanted
        more = {"Accept-Ranges": "bytes"}
        if "Range" in self.headers:
            more["Content-Range"] = f"bytes {first}-{end - 1}/{span.num_bytes}"
        chunks = _chunks(span, first, end)
        # The first chunk is read before the head is sent, so that a file that is gone is a 404.
        try:
            chunk = next(chunks, b"")
        except OSError as error:
            self._refuse(404 if isinstance(error, FileNotFoundError) else 502, str(error))
            return
        self._send_head(
            206 if "Range" in self.headers else 200, answer.content_type, end - first, more
        )
        self.wfile.write(chunk)
        sent = len(chunk)
        with suppress(OSError):
            for chunk in chunks:
                self.wfile.write(chunk)
                sent += len(chunk)
        if sent < end - first:  # the length is promised: only the end of the connection says so
            self.close_connection = True

    def _refuse(self, status: int, text: str, more: dict[str, str] | None = None) -> None:
        data = text.encode()
        self._send_head(status, "text/plain; charset=utf-8", len(data), more)
        self.wfile.write(data)

    def _send_head(
        self, status: int, content_type: str, length: int, more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def version_string(self) -> str:
        return "lafp"

    def log_message(self, *_: object) -> None:
        """Prints nothing: the lines would hold the token."""

    def setup(self) -> None:
        super().setup()
        # Head and body are two writes. Nagle's algorithm would hold the second one back.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Returns first byte and end of the wanted range; None if the file has no such bytes."""
    if header is None:
        return 0, size
    # Longer numbers lie beyond any file, and Python refuses to read very long ones.
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip(), re.ASCII)
    if not found or found.group() == "bytes=-":
        return None
    first, last = found.groups()
    if not first:  # the last bytes
        first, last = str(max(0, size - int(last))), ""
    end = min(int(last) + 1, size) if last else size
    return (int(first), end) if int(first) < end else None


def _chunks(span: Span, first: int, end: int) -> Iterator[bytes]:
    while first < end:
        data = storage.read_bytes(span.uri, span.offset + first, min(_CHUNK_BYTES, end - first))
        if not data:
            return
        yield data
        first += len(data)
