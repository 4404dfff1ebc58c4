"""An S3 that errs, stalls, breaks off and loses its answers, and what storage makes of it.

python -m tests.chaos.s3_faults [--operations 1000] [--seed 1] [--patience-s 180]

A proxy stands before a real S3 API. A fault befalls a share of the requests: an error before or
instead of the request, an answer that is lost after the request was done, a body that breaks off, a
slow answer. Random reads and writes through it must give what they give on a good S3. Prints a JSON
line.
"""

import argparse
import http.client
import json
import logging
import os
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from lafp import storage
from lafp.storage import s3
from tests.http_server import running
from tests.s3_server import running_s3

FAULTS = ("error", "throttled", "lost", "broken", "refused", "slow")
SLOW_S = 0.3
LARGE_BYTES = 9 * 2**20
"""boto3 uploads and downloads such a file in several parts."""
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
    """A proxy on loopback. ``faults`` counts those that it made."""

    daemon_threads = True

    def __init__(self, endpoint: str, seed: int, share: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.host, self.share = urlsplit(endpoint).netloc, share
        self.faults: Counter[str] = Counter()
        self._rng, self._lock = random.Random(seed), threading.Lock()

    def draw(self, command: str) -> str | None:
        """The fault of the next request."""
        with self._lock:
            if self._rng.random() >= self.share:
                return None
            fault = self._rng.choice(FAULTS)
            self.faults[f"{command} {fault}"] += 1
            return fault


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
def faulty_s3(endpoint: str, seed: int, share: float) -> Iterator[FaultyS3]:
    """Runs the proxy in the block."""
    proxy = FaultyS3(endpoint, seed, share)
    with running(proxy):
        yield proxy


class Trial:
    """Random operations below a prefix, beside a dict that holds what must be there."""

    def __init__(self, root: str, folder: Path, seed: int) -> None:
        self.root, self.folder = root, folder
        self.rng = random.Random(seed)
        self.expected: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    def run(self, num_operations: int) -> None:
        """Does the operations, and compares what each gives."""
        operations: list[Callable[[str], None]] = [
            *(self.write, self.upload, self.read, self.read_part, self.read_version),
            *(self.swap, self.swap_old, self.delete, self.copy, self.listing, self.download),
        ]
        for number in range(num_operations):
            operation = self.rng.choice(operations)
            name = f"{self.rng.choice('ab')}/{self.rng.randrange(4)}"
            self.counts[operation.__name__] += 1
            try:
                operation(name)
            except OSError as error:
                self.faults.append(f"{number} {operation.__name__} {name}: {error!r}"[:300])
        self.listing("a/0")

    def _check(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.faults.append(f"{what}: {str(found)[:80]} is not {str(expected)[:80]}")

    def _uri(self, name: str) -> str:
        return storage.join(self.root, name)

    def _data(self, most: int = 200_000) -> bytes:
        return self.rng.randbytes(self.rng.randrange(1, most))

    def write(self, name: str) -> None:
        self.expected[name] = data = self._data()
        storage.write_bytes(self._uri(name), data)

    def upload(self, name: str) -> None:
        is_large = self.rng.random() < 0.2
        self.expected[name] = data = self._data() + bytes(LARGE_BYTES if is_large else 0)
        path = self.folder / "uploaded"
        path.write_bytes(data)
        storage.upload(path, self._uri(name))

    def read(self, name: str) -> None:
        if name in self.expected:
            self._check(f"read {name}", storage.read_bytes(self._uri(name)), self.expected[name])
        else:
            self._check(f"is_file {name}", storage.is_file(self._uri(name)), False)

    def read_part(self, name: str) -> None:
        if data := self.expected.get(name):
            begin = self.rng.randrange(len(data))
            with storage.open_file(self._uri(name)) as file:
                file.seek(begin)
                self._check(f"part of {name}", file.read(5_000), data[begin : begin + 5_000])

    def read_version(self, name: str) -> None:
        found = storage.read_version(self._uri(name))
        self._check(f"version of {name}", found and found[0], self.expected.get(name))

    def swap(self, name: str) -> None:
        found = storage.read_version(self._uri(name))
        data = self._data(1_000)
        made = storage.swap(self._uri(name), data, found[1] if found else None)
        self._check(f"swap of {name} is done", made is not None, True)
        self.expected[name] = data

    def swap_old(self, name: str) -> None:
        made = storage.swap(self._uri(name), self._data(1_000), f'"{uuid.uuid4().hex}"')
        self._check(f"swap of an old version of {name}", made, None)

    def delete(self, name: str) -> None:
        self.expected.pop(name, None)
        storage.delete(self._uri(name))

    def copy(self, name: str) -> None:
        if name in self.expected:
            target = f"c/{name[-1]}"
            self.expected[target] = self.expected[name]
            s3.copy(self._uri(name), self._uri(target))

    def listing(self, _: str) -> None:
        found = {file.uri: file.num_bytes for file in storage.list_files(self.root)}
        expected = {self._uri(name): len(data) for name, data in self.expected.items()}
        self._check("list", sorted(found.items()), sorted(expected.items()))
        folders = sorted({name[0] for name in self.expected})
        self._check("folders", sorted(storage.list_folders(self.root)), folders)

    def download(self, name: str) -> None:
        if name in self.expected:
            with storage.local_file(self._uri(name)) as path:
                self._check(f"download {name}", path.read_bytes(), self.expected[name])


def main() -> None:
    """Runs the operations through the proxy."""
    import boto3

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--operations", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.2, help="of the requests with a fault")
    parser.add_argument("--patience-s", type=float, default=0.0, help="180 is that of workers")
    args = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    storage.be_patient(args.patience_s)
    begin_s = time.monotonic()
    with running_s3() as settings, tempfile.TemporaryDirectory() as folder:
        os.environ |= settings
        boto3.client("s3").create_bucket(Bucket="faulty")
        with faulty_s3(settings["AWS_ENDPOINT_URL"], args.seed, args.share) as proxy:
            os.environ["AWS_ENDPOINT_URL"] = proxy.url
            trial = Trial("s3://faulty/run", Path(folder), args.seed)
            trial.run(args.operations)
    line = {
        "operations": dict(sorted(trial.counts.items())),
        "injected": dict(sorted(proxy.faults.items())),
        "wall_s": round(time.monotonic() - begin_s, 1),
        "faults": trial.faults,
    }
    print(json.dumps(line))
    sys.exit(bool(trial.faults))


if __name__ == "__main__":
    main()
