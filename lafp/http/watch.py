"""Limits the time of a whole download, and the addresses that it may connect to.

The timeout of a socket starts again with every byte, so a slow host could stretch a download
without end.
"""

import http.client
import socket
import threading
import time
import urllib.request
from functools import partial
from typing import Any

from lafp.http.addresses import connect_publicly


class Watch:
    """Shuts the connection down at the deadline, even while a read or connect is blocked."""

    def __init__(self, deadline: float) -> None:
        self._timer = threading.Timer(max(deadline - time.monotonic(), 0), self._shut)
        self._timer.daemon = True
        self.sock: socket.socket | None = None

    def opener(self, allow_private: bool) -> urllib.request.OpenerDirector:
        """Makes an opener that neither follows redirects nor raises for an HTTP status."""
        opener = urllib.request.OpenerDirector()
        handlers = (_HttpHandler(self, allow_private), _HttpsHandler(self, allow_private))
        for handler in (urllib.request.ProxyHandler(), *handlers):
            opener.add_handler(handler)
        return opener

    def __enter__(self) -> "Watch":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _shut(self) -> None:
        if self.sock is not None:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already
                return


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, watch: Watch, allow_private: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watch = watch
        if not allow_private:
            self._create_connection = connect_publicly

    def connect(self) -> None:
        super().connect()
        self._watch.sock = self.sock


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """A ``_Connection`` over TLS."""


class _HttpHandler(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch, allow_private: bool) -> None:
        super().__init__()
        self._watch, self._allow_private = watch, allow_private

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        # A proxy stands in the own network, and resolves the name itself.
        allow = self._allow_private or request.has_proxy()
        return self.do_open(partial(_Connection, watch=self._watch, allow_private=allow), request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch, allow_private: bool) -> None:
        super().__init__()
        self._watch, self._allow_private = watch, allow_private

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        is_proxied = bool(getattr(request, "_tunnel_host", None))
        allow = self._allow_private or is_proxied
        return self.do_open(
            partial(_TlsConnection, watch=self._watch, allow_private=allow), request
        )
