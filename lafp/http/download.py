"""Downloads files over HTTP within limits of rate, size and time, and resumes broken downloads."""

import http.client
import random
import re
import shutil
import tempfile
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from lafp.config.ranges import check_at_least, check_positive
from lafp.http.addresses import check_name
from lafp.http.answers import (
    DownloadError,
    TransientError,
    host_name,
    joined,
    network_errors,
    retry_after_s,
    total_bytes,
)
from lafp.http.host_gate import Gate, turn
from lafp.http.watch import Watch
from lafp.storage.secrets import without_secrets

_MAX_REDIRECTS = 5
_CHUNK_BYTES = 256 * 2**10
# For one read or connect. ``timeout_s`` limits the whole download.
_SOCKET_TIMEOUT_S = 30.0
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 60.0
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_FORBIDDEN = (400, 401, 403)
_EXPIRED = re.compile(rb"expired|not valid in the specified time frame", re.IGNORECASE)
"""Words of S3, Google, Azure and others in the body of a refusal."""
_EXPIRES = re.compile(r"[?&]expires=(\d{10})(?!\d)", re.IGNORECASE)
"""Time in a signed address, e.g. of CloudFront, which refuses without a reason."""
_ERROR_BYTES = 16 << 10
_TRANSIENT = (408, 425, 429)
_ANY_ZLIB_HEADER = 47  # accepts gzip and zlib headers, with the largest window
_USER_AGENT = "lafp (video preprocessing)"
# With the percent sign, so that what is escaped already is not escaped again.
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


@dataclass(frozen=True, kw_only=True)
class HttpConfig:
    """Settings for downloads from lists of http(s) URIs."""

    requests_per_s_per_host: float = 10.0
    """Requests of the whole cluster together, including retries and redirects."""
    connections_per_host: int = 8
    """Open connections of the whole cluster together."""
    max_bytes: int = 2 * 2**30
    """Limit for one file; `limits.max_bytes` applies too."""
    timeout_s: float = 600.0
    """Limit for one file with all retries. The time it waits for its turn does not count."""
    retries: int = 4
    """Number of retries after 408, 425, 429, 5xx and broken connections. They wait for growing
    intervals, or as long as the host's Retry-After says. A broken download goes on where it
    stopped."""

    allow_private_addresses: bool = False
    """Whether hosts, and hosts that they redirect to, may be in a private network, on this machine,
    or a cloud's metadata service. If false, such a file is a reject."""

    def __post_init__(self) -> None:
        if not 0 < self.requests_per_s_per_host <= 10_000:
            raise ValueError(
                "requests_per_s_per_host must be in (0, 10000], got "
                f"{self.requests_per_s_per_host}."
            )
        check_positive(self, "connections_per_host", "max_bytes", "timeout_s")
        check_at_least(self, 0, "retries")


def download(url: str, path: Path, cfg: HttpConfig, gate: Gate) -> None:
    """Fetches ``url`` into the file ``path``.

    The download uses the proxy that the environment names (``https_proxy`` ...).

    Raises:
        DownloadError: ``not_found``, ``too_many_bytes``, ``timeout``, ``private_address``,
            ``expired`` or ``unreadable``.
        OSError: ``path`` cannot be written.
    """
    with path.open("w+b") as file:
        job = _Download(url, file, cfg, gate)
        for attempt in range(cfg.retries + 1):
            try:
                job.attempt()
                job.decode()
                return
            except TransientError as error:
                wait_s = error.wait_s or _backoff_s(attempt)
                if time.monotonic() + wait_s > job.deadline:
                    raise DownloadError("timeout", f"{error} and {job.so_far()}") from error
                if attempt == cfg.retries:
                    tries = f"{attempt + 1} attempts, {job.so_far()}"
                    raise DownloadError("unreadable", f"{error} ({tries})") from error
            time.sleep(wait_s)


def _backoff_s(attempt: int) -> float:
    # The random factor keeps workers from repeating their requests at the same moment.
    return min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt) * random.uniform(0.5, 1)


class _Download:
    """One download, with all of its attempts."""

    def __init__(self, url: str, file: BinaryIO, cfg: HttpConfig, gate: Gate) -> None:
        self.url, self.cfg, self.gate = url, cfg, gate
        self.deadline = time.monotonic() + cfg.timeout_s
        self._file = file
        self._num_bytes = 0
        self._validator = ""
        """ETag or date of the file's version that the bytes belong to; empty if unknown."""
        self._encoding = ""
        """Content encoding of the bytes. Some hosts send one although none was requested."""

    def so_far(self) -> str:
        """Describes the progress for messages."""
        return f"{self._num_bytes} bytes in {self.cfg.timeout_s:g} s at most"

    def attempt(self) -> None:
        """Requests the missing bytes, and follows redirects."""
        url = self.url
        for _ in range(_MAX_REDIRECTS + 1):
            # Redirects often lead to another host, which has limits of its own.
            with self._turn(url):
                location = self._request(url)
            if location is None:
                return
            url = joined(url, location)
        raise DownloadError(
            "unreadable", f"more than {_MAX_REDIRECTS} redirects, now to {without_secrets(url)}"
        )

    def decode(self) -> None:
        """Decompresses the file if the host has sent it compressed."""
        if self._encoding in ("", "identity"):
            return
        if self._encoding not in ("gzip", "x-gzip", "deflate"):
            detail = f"the host sends the unknown encoding {self._encoding!r}"
            raise DownloadError("unreadable", detail)
        with tempfile.TemporaryFile() as packed:
            self._file.seek(0)
            shutil.copyfileobj(self._file, packed)
            packed.seek(0)
            self._begin()
            try:
                self._unpack(packed)
            except zlib.error as error:
                detail = f"the host's data is not valid {self._encoding}: {error}"
                raise DownloadError("unreadable", detail) from error

    def _unpack(self, packed: BinaryIO) -> None:
        unpacker = zlib.decompressobj(_ANY_ZLIB_HEADER)
        while data := packed.read(_CHUNK_BYTES):
            while data:
                chunk = unpacker.decompress(data, _CHUNK_BYTES)
                data = unpacker.unconsumed_tail
                self._check_size(self._num_bytes + len(chunk))
                self._file.write(chunk)
                self._num_bytes += len(chunk)
                if time.monotonic() > self.deadline:
                    raise DownloadError("timeout", self.so_far())
        if not unpacker.eof:
            raise zlib.error("it ends too early")

    @contextmanager
    def _turn(self, url: str) -> Iterator[None]:
        cfg, host = self.cfg, host_name(url)
        with turn(
            self.gate, host, cfg.requests_per_s_per_host, cfg.connections_per_host, cfg.timeout_s
        ) as waited_s:
            self.deadline += waited_s
            yield

    def _request(self, url: str) -> str | None:
        """Sends one request and receives its answer. Returns the URL of a redirect, if any."""
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
        if self._num_bytes and self._validator:
            # If the file has changed meanwhile, `If-Range` makes the host send all of the new one.
            # Without it, the parts of two versions would be joined.
            headers |= {"Range": f"bytes={self._num_bytes}-", "If-Range": self._validator}
        address = quote(url, safe=_URL_CHARACTERS)
        # ``host_name`` has refused other schemes.
        request = urllib.request.Request(address, headers=headers)  # noqa: S310
        with Watch(self.deadline) as watch, closing(self._send(request, watch)) as response:
            status = response.status
            if status in _REDIRECTS and (location := response.headers.get("Location")):
                return str(location)
            if status in (200, 206):
                self._receive(response)
                return None
            self._refused(status, url, response)
        raise AssertionError(status)

    def _send(self, request: urllib.request.Request, watch: Watch) -> http.client.HTTPResponse:
        left_s = max(self.deadline - time.monotonic(), 0.001)
        with network_errors(self.deadline):
            if not self.cfg.allow_private_addresses:
                check_name(host_name(request.full_url))
            opener = watch.opener(self.cfg.allow_private_addresses)
            return opener.open(request, timeout=min(_SOCKET_TIMEOUT_S, left_s))

    def _refused(self, status: int, url: str, response: http.client.HTTPResponse) -> None:
        message = f"HTTP {status} {response.reason}"
        if status in _GONE:
            raise DownloadError("not_found", message)
        if status == 416:  # the host's file is now shorter than the bytes received so far
            self._begin()
            raise TransientError(message)
        if status in _TRANSIENT or status >= 500:
            wait_s = retry_after_s(response.headers.get("Retry-After", ""))
            if wait_s:
                # All workers of the cluster wait, not only this one.
                self.gate.pause(host_name(url), min(wait_s, self.cfg.timeout_s))
            raise TransientError(message, wait_s)
        if status in _FORBIDDEN:
            with network_errors(self.deadline):
                text = response.read1(_ERROR_BYTES)
            expires = _EXPIRES.search(url)
            if _EXPIRED.search(text) or (expires and int(expires[1]) < time.time()):
                raise DownloadError("expired", f"{message}: the signature of the address expired")
        raise DownloadError("unreadable", message)

    def _receive(self, response: http.client.HTTPResponse) -> None:
        """Appends the body to the file."""
        total = total_bytes(response, self._num_bytes)
        if response.status == 200:
            self._begin()
        elif total is None:
            self._begin()
            raise TransientError("a range that was not asked for")
        etag = response.headers.get("ETag", "")
        # Versions with equal weak ETags may differ in their bytes.
        is_strong = bool(etag) and not etag.startswith("W/")
        self._validator = etag if is_strong else response.headers.get("Last-Modified", "")
        self._encoding = response.headers.get("Content-Encoding", "").strip().lower()
        self._check_size(total or 0)
        while chunk := self._chunk(response):
            self._check_size(self._num_bytes + len(chunk))
            self._file.write(chunk)
            self._num_bytes += len(chunk)
        if total is not None and self._num_bytes != total:
            raise TransientError(f"the connection broke after {self._num_bytes} of {total} bytes")

    def _chunk(self, response: http.client.HTTPResponse) -> bytes:
        with network_errors(self.deadline):
            # `read1` returns what has arrived. `read` would wait for a whole chunk, and the
            # deadline with it.
            chunk = bytes(response.read1(_CHUNK_BYTES))
        if time.monotonic() > self.deadline:
            raise DownloadError("timeout", self.so_far())
        return chunk

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self.cfg.max_bytes:
            raise DownloadError("too_many_bytes", f"at least {num_bytes} bytes")

    def _begin(self) -> None:
        self._num_bytes = 0
        self._file.seek(0)
        self._file.truncate()
