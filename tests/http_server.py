"""A real HTTP server on loopback that misbehaves as told, and remembers what it was asked."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebHost:
    """Answers by path. ``hits``: time, path and Range header of every request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler, int], None]] = {}
        """Path -> what answers it: the handler, and how often the path was asked for before."""
        self.hits: list[tuple[float, str, str | None]] = []
        self.max_open = self._num_open = 0
        self._lock = threading.Lock()
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with host._lock:
                    before = sum(path == self.path for _, path, _ in host.hits)
                    host.hits.append((time.monotonic(), self.path, self.headers["Range"]))
                try:
                    host.answers.get(self.path, host.serve)(self, before)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def asked(self, path: str) -> list[str | None]:
        """The Range headers that a path was asked for with."""
        return [wanted for _, found, wanted in self.hits if found == path]

    def serve_slowly(self, handler: BaseHTTPRequestHandler, before: int) -> None:
        """As ``serve``, after a pause; ``max_open`` counts those that pause at the same time."""
        with self._lock:
            self._num_open += 1
            self.max_open = max(self.max_open, self._num_open)
        time.sleep(0.15)
        with self._lock:
            self._num_open -= 1
        self.serve(handler, before)

    def serve(self, handler: BaseHTTPRequestHandler, before: int) -> None:
        """As a good host does: ranges, an ETag, 404."""
        data = self.files.get(handler.path)
        if data is None:
            return answer(handler, 404)
        wanted = handler.headers["Range"]
        if wanted is None:
            return answer(handler, 200, data, ETag='"v1"')
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return answer(handler, 206, data[start:], ETag='"v1"', **{"Content-Range": span})


def answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    length: int | None = None,
    **headers: str,
) -> None:
    """Status, headers, body; ``length`` is what Content-Length claims (-1: there is none)."""
    handler.send_response(status)
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), value)
    if length != -1:
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving() -> Iterator[WebHost]:
    """A host that runs in the block."""
    host = WebHost()
    with running(host.server):
        yield host


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    """Runs a server in a thread of its own, and ends it with the block."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
