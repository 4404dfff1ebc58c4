"""Reads what a host answers: addresses, headers, refusals, and errors of the network."""

import email.utils
import http.client
import re
import socket
import ssl
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urljoin, urlsplit

from lafp.http.addresses import PrivateAddressError
from lafp.storage.secrets import without_secrets


class DownloadError(Exception):
    """A file cannot be downloaded. The job rejects the file and goes on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class TransientError(Exception):
    """A request failed in a way that may not happen again."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """Time that the host asks the client to wait; 0 if it does not ask."""


def joined(url: str, location: str) -> str:
    """Resolves the location of a redirect.

    ``http.client`` decodes headers as Latin-1, but hosts may send UTF-8.
    """
    try:
        with suppress(UnicodeError):  # not UTF-8, so Latin-1 was right
            location = location.encode("latin-1").decode()
        return urljoin(url, location)
    except ValueError as error:
        raise DownloadError("unreadable", f"a redirect to an invalid address: {error}") from None


def host_name(url: str) -> str:
    """Returns the host's name.

    Raises:
        DownloadError: The URL is invalid, or is not http(s).
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port is a number up to 65535, or a ValueError
    except ValueError as error:
        raise DownloadError("unreadable", f"{without_secrets(url)!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise DownloadError("unreadable", f"{without_secrets(url)!r} is not an http(s) URL")
    if "@" in parts.netloc:  # ``http.client`` would take the password for a port, and print it
        detail = f"{without_secrets(url)!r} has a user name or password, which is not sent"
        raise DownloadError("unreadable", detail)
    return host


def total_bytes(response: http.client.HTTPResponse, num_bytes: int) -> int | None:
    """Returns the size of the whole file; None if unknown, or if the range is not as requested."""
    if response.status == 206:
        match = re.match(
            r"bytes (\d{1,18})-\d+/(\d{1,18})$", response.headers.get("Content-Range", "")
        )
        return int(match[2]) if match and int(match[1]) == num_bytes else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and len(length) <= 18 else None


def retry_after_s(header: str) -> float:
    """Parses Retry-After, which holds seconds or a date. Returns 0 if it is neither."""
    try:
        if header.strip().isdecimal():
            return float(header.strip())
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


@contextmanager
def network_errors(deadline: float) -> Iterator[None]:
    """Turns errors of the network and of addresses into ``DownloadError`` or ``TransientError``."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        message = f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(cause)
        if isinstance(cause, PrivateAddressError):
            detail = f"{cause}: http.allow_private_addresses permits it, in a new run"
            raise DownloadError("private_address", detail) from error
        if time.monotonic() > deadline:
            raise DownloadError("timeout", message) from error
        # A host that does not exist, or has a wrong certificate, will not be better at the next
        # try.
        is_unknown = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
        if is_unknown or isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError("unreadable", message) from error
        raise TransientError(message) from error
    except ValueError as error:  # a URL that cannot be sent
        raise DownloadError("unreadable", str(error)) from error
