"""A network that fails."""

import socket
import threading
from contextlib import suppress


class Cable:
    """A connection to a server that can be pulled out and plugged in again."""

    def __init__(self, port: int) -> None:
        self._to, self._open = port, []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.is_plugged = True
        threading.Thread(target=self._serve, daemon=True).start()

    def pull(self) -> None:
        self.is_plugged = False
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes the threads that read from it

    def _serve(self) -> None:
        while True:
            client, _ = self._server.accept()
            if not self.is_plugged:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._to))
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(2**16):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()
