"""A proxy before a real S3 API that errs, stalls, breaks off, loses answers, and lies on ETags."""

import http.client
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.http_server import running

FAULTS = ("error", "throttled", "lost", "broken", "refused", "slow")
SLOW_S = 0.3
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
    "<Message>Please try again.</Message></Error>"
)
_OF_ONE_CONNECTION = ("connection", "transfer-encoding", "keep-alive")


class _Handler(BaseHTTPRequestHandler):
    """Hands a request on to the real S3, but for what ``FaultyS3`` wants."""

    protocol_version = "HTTP/1.1"
    server: "FaultyS3"

    def answer(self) -> None:
        body = _body_of(self)
        fault = self.server.draw(self.command)
        if fault == "refused":
            self.close_connection = True
        elif fault in ("error", "throttled"):
            status, code = (500, "InternalError") if fault == "error" else (503, "SlowDown")
            self._send(status, {}, _ERROR.format(code=code).encode())
        else:
            status, headers, data = self._of_the_real_one(body)
            if fault == "slow":
                time.sleep(SLOW_S)
            headers, data = self.server.lied(self.command, self.path, headers, data)
            if fault == "lost":
                self.close_connection = True
            else:
                self._send(status, headers, data, fault == "broken")

    # The names are those of http.server.
    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    def _of_the_real_one(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        with closing(http.client.HTTPConnection(self.server.host)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            found = connection.getresponse()
            return found.status, dict(found.headers), found.read()

    def _send(
        self, status: int, headers: dict[str, str], data: bytes, breaks: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        if "content-length" not in {name.lower() for name in headers}:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if breaks else data)
        self.close_connection |= breaks

    def log_message(self, *_) -> None:
        pass


class FaultyS3(ThreadingHTTPServer):
    """A proxy on loopback. ``faults`` counts those that it made, and the lies."""

    daemon_threads = True

    def __init__(self, endpoint: str, seed: int, share: float, lies: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.host, self.share, self.lies = urlsplit(endpoint).netloc, share, lies
        self.faults: Counter[str] = Counter()
        self.overtake: Callable[[str], str | None] | None = None
        """Is called with the path of every answer to GET and HEAD, before that is sent, and may
        replace the object. Returns the new ETag, if it did."""
        self._etags: dict[str, list[str]] = {}
        self._rng, self._lock = random.Random(seed), threading.Lock()

    def draw(self, command: str) -> str | None:
        """The fault of the next request."""
        with self._lock:
            if self._rng.random() >= self.share:
                return None
            fault = self._rng.choice(FAULTS)
            self.faults[f"{command} {fault}"] += 1
            return fault

    def lied(
        self, command: str, path: str, headers: dict[str, str], data: bytes
    ) -> tuple[dict[str, str], bytes]:
        """Headers and body of an answer, whose ETag may be made one that is not the object's."""
        with self._lock:
            newer = None
            if self.overtake and command in ("GET", "HEAD"):
                newer = self.overtake(path)
            names = [name for name in headers if name.lower() == "etag"]
            is_list = b"<ETag>" in data[:100_000]
            if not (names or is_list) or self._rng.random() >= (0.5 if newer else self.lies):
                self._etags.setdefault(path, []).extend(headers[name] for name in names)
                return headers, data
            kinds = ["none", "missing", *(["newer"] if newer else ())]
            true = headers[names[0]] if names else ""
            earlier = [etag for etag in self._etags.get(path, []) if etag != true]
            others = [etag for etags in self._etags.values() for etag in etags if etag != true]
            kinds += ["earlier"] * bool(earlier) + ["other"] * bool(others)
            kind = self._rng.choice(kinds)
            etag = {
                "none": f'"{self._rng.randbytes(16).hex()}"',
                "missing": "",
                "newer": newer or "",
                "earlier": self._rng.choice(earlier or [""]),
                "other": self._rng.choice(others or [""]),
            }[kind]
            self._etags.setdefault(path, []).extend(headers[name] for name in names)
            self.faults[f"{command} lie: {kind}"] += 1
            headers = {name: value for name, value in headers.items() if name not in names}
            if names and etag:
                headers["ETag"] = etag
            # Of copies and of uploads in parts the body names the ETag.
            said = re.sub(b"<ETag>[^<]*</ETag>", _element(etag), data)
            if said != data:
                # It is set anew.
                headers = {n: v for n, v in headers.items() if n.lower() != "content-length"}
            return headers, said


def _element(etag: str) -> bytes:
    return f"<ETag>{etag}</ETag>".encode()


def _body_of(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in (handler.headers["Transfer-Encoding"] or ""):
        return handler.rfile.read(int(handler.headers["Content-Length"] or 0))
    parts = []
    while length := int(handler.rfile.readline().split(b";")[0], 16):
        parts.append(handler.rfile.read(length))
        handler.rfile.readline()
    while handler.rfile.readline().strip():
        pass
    del handler.headers["Transfer-Encoding"]
    return b"".join(parts)


@contextmanager
def faulty_s3(endpoint: str, seed: int, share: float, lies: float = 0.0) -> Iterator[FaultyS3]:
    """Runs the proxy in the block."""
    proxy = FaultyS3(endpoint, seed, share, lies)
    with running(proxy):
        yield proxy
