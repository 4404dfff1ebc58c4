"""Client of a policy server (``lafp serve``) for the computer of a robot.

Copy this one file to the robot. It needs Python 3.8 or newer, numpy and msgpack (``pip install
numpy msgpack``, on Ubuntu also ``apt install python3-numpy python3-msgpack``), and nothing of
lafp::

    from lafp_client import RemoteAgent

    with RemoteAgent("http://127.0.0.1:8470", token) as agent:
        agent.reset()
        action = agent.act(camera.read())  # every 1 / agent.fps seconds

Messages are MessagePack, because it carries the bytes of a picture as they are, has a library for
C++, Rust and every other language that robots are written in, and holds no code that a reader would
run, as a pickle does. The module ``lafp.serve.server`` lists the requests.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import msgpack
import numpy as np


class ServerError(RuntimeError):
    """The server refused a request, or could not be reached. The message is one line."""


class RemoteAgent:
    """Controls one episode, or several in parallel, like ``lafp.Agent``.

    The server keeps the frame stack and the policy's state of this robot in a session, which begins
    here and ends with ``close``. Use one object per robot. It must not be shared by threads.

    Args:
        url: Address of the server, e.g. ``http://127.0.0.1:8470``.
        token: The token that the server printed.
        timeout_s: Longest time to wait for one answer.

    Raises:
        ServerError: The server cannot be reached, or the token is wrong.
    """

    def __init__(self, url: str, token: str, timeout_s: float = 10.0) -> None:
        expected = f"{url!r} is no address of a server: expected http://HOST:PORT."
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:  # the port is no number up to 65535, or the host no IPv6 one
            raise ServerError(f"{expected} {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(expected)
        is_tls = parts.scheme == "https"
        kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
        self._url, self._path = url, parts.path.rstrip("/")
        self._connection = kind(parts.hostname, port, timeout=timeout_s)
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/msgpack",
        }
        self._about = self._request("GET", "/agent", None)
        self._session = self._request("POST", "/sessions", {})["session"]

    @property
    def fps(self) -> float:
        """Control rate: call ``act`` every 1 / fps seconds."""
        return self._about["fps"]

    @property
    def reads(self) -> frozenset[str]:
        """Keys that ``act`` requires: ``image``, and ``state`` or ``condition`` if it is read."""
        return frozenset(self._about["reads"])

    @property
    def obs(self) -> dict[str, Any]:
        """Size of an observation: ``height_px``, ``width_px`` and more."""
        return self._about["obs"]

    @property
    def action(self) -> dict[str, Any]:
        """Dimensions of an action, ``dim``, and bounds, ``low`` and ``high``, in its units."""
        return self._about["action"]

    def reset(self, num_episodes: int = 1, seed: int = 0) -> None:
        """Begins new episodes. Each call of ``act`` controls ``num_episodes``."""
        self._in_session("reset", {"num_episodes": num_episodes, "seed": seed})

    def reset_where(self, is_over: np.ndarray) -> None:
        """Begins a new episode wherever ``is_over``, bool [N], is true; the others go on."""
        self._in_session("reset_where", {"is_over": _packed(is_over)})

    def act(self, obs: np.ndarray | Mapping[str, np.ndarray]) -> np.ndarray:
        """Chooses the next action from the current observation. Call it once per step.

        After an error in the connection it is unknown whether the server has made the step. Begin
        new episodes then, with a new ``RemoteAgent``.

        Args:
            obs: An RGB image, uint8 [H, W, 3], or [N, H, W, 3] for N episodes; or ``{"image": ...,
                "state": ..., "condition": ...}`` with the keys of ``reads``.

        Returns:
            float32 [A] or [N, A] in the robot's units; discrete: int64, scalar or [N].

        Raises:
            ServerError: The observation has other keys, shapes or types than the policy reads, or
                the server cannot be reached.
        """
        given = obs if isinstance(obs, Mapping) else {"image": obs}
        message = {name: _packed(array) for name, array in given.items()}
        sent = self._in_session("act", message)["action"]
        dtype = np.dtype(sent["dtype"]).newbyteorder("<")
        return np.frombuffer(sent["data"], dtype).reshape(sent["shape"]).copy()

    def close(self) -> None:
        """Ends the session. The server forgets this robot's episodes."""
        try:
            self._request("DELETE", f"/sessions/{self._session}", None)
        except ServerError:
            pass  # the session has ended already, or the server has
        finally:
            self._connection.close()

    def __enter__(self) -> RemoteAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_session(self, verb: str, message: Mapping[str, object]) -> dict[str, Any]:
        return self._request("POST", f"/sessions/{self._session}/{verb}", message)

    def _request(self, method: str, path: str, message: object) -> dict[str, Any]:
        body = None if message is None else msgpack.packb(message, use_bin_type=True)
        try:
            status, raw = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise ServerError(
                f"{self._url} does not answer ({reason}). Check the address, and whether the "
                "server still runs."
            ) from None
        try:
            answer = msgpack.unpackb(raw, raw=False)
        except Exception:
            answer = None
        if not isinstance(answer, dict):
            raise ServerError(
                f"{self._url} is no policy server of lafp: it answers HTTP {status} without "
                "MessagePack. Use the address that `lafp serve` printed."
            )
        if status != 200:
            raise ServerError(f"{self._url}: {answer.get('error', f'HTTP {status}')}")
        return answer

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        if self._connection.sock is None:
            self._connection.connect()
            sock: Any = self._connection.sock
            # The last packet of a picture must not wait for the answer to the one before it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A server that refuses a large body closes early, and its answer says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._connection.request(method, self._path + path, body, self._headers)
        with self._connection.getresponse() as response:
            return response.status, response.read()


def _packed(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": little.tobytes()}
