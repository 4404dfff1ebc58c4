"""The policy server: robots send observations over HTTP, and get actions.

==========================================  =================================================
``GET /agent``                              what the agent reads and returns
``POST /sessions``                          ``Episodes`` -> ``{"session": ID}``
``POST /sessions/ID/act``                   ``Observation`` -> ``{"action": Array}``
``POST /sessions/ID/reset``                 ``Episodes`` -> ``{}``
``POST /sessions/ID/reset_where``           ``EpisodesThatEnd`` -> ``{}``
``DELETE /sessions/ID``                     ``{}``
==========================================  =================================================

Bodies are MessagePack (``lafp.serve.messages``). Every request carries the header ``Authorization:
Bearer TOKEN``. An error is ``{"error": "one line"}`` with its status. One thread does all, one
request after the other: the model of one robot uses all cores, or the GPU, anyway.
"""

import asyncio
import hmac
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

from lafp.agent import Agent
from lafp.serve import messages
from lafp.serve.http_requests import (
    Head,
    RefusedError,
    body_bytes,
    discard_rest,
    read_head,
    write_answer,
)
from lafp.serve.messages import Episodes, EpisodesThatEnd, Observation
from lafp.serve.sessions import NoRoomError, Sessions, UnknownSessionError

MAX_REQUEST_BYTES = 16 << 20
_ROOM_BYTES = 4096  # of a request, for names and shapes
MAX_CONNECTIONS = 256
"""Most connections that have shown the token."""
MAX_STRANGERS = 128
"""Most connections that have not. A new one then takes the place of the oldest, because a robot
shows its token at once. More than the 100 that asyncio accepts in a row, so that these do not end
each other before their first request is read."""
FIRST_HEAD_S = 10.0
"""Time in which a connection must send its first request with the token."""
_BODY_S = 10.0
_STOP_S = 5.0
_NUM_LATENCIES = 100_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Latencies:
    """Time of the last actions, in milliseconds."""

    num_actions: int
    """Number of all actions since the start."""
    num_sessions: int
    act_p50_ms: float
    """Time in the agent alone."""
    act_p95_ms: float
    request_p50_ms: float
    """Time from the message that came to the message that goes: reading, acting, writing."""
    request_p95_ms: float


class PolicyServer:
    """Serves one agent's models to any number of robots.

    Args:
        agent: The agent, whose own episodes are not touched.
        token: Whoever sends it may use the server.
    """

    def __init__(self, agent: Agent, token: str) -> None:
        self._description = messages.write(
            {
                "fps": agent.fps,
                "reads": sorted(agent.reads),
                "obs": agent.obs,
                "action": agent.action,
                "max_request_bytes": MAX_REQUEST_BYTES,
            }
        )
        self._authorization = f"Bearer {token}".encode("latin-1")
        self._sessions = Sessions(agent, MAX_REQUEST_BYTES, _ROOM_BYTES)
        self._robots: set[asyncio.Task[None]] = set()
        # A dict keeps the order in which they came.
        self._strangers: dict[asyncio.Task[None], None] = {}
        self._idle: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._num_actions = 0
        self._seconds: deque[tuple[float, float]] = deque(maxlen=_NUM_LATENCIES)

    async def serve(
        self, host: str, port: int, until: asyncio.Event, on_ready: Callable[[int], None]
    ) -> Latencies:
        """Serves until the event is set. Requests that have begun are answered before the end.

        Args:
            host: Name or address to listen at.
            port: 0 chooses a free one.
            until: Ends the server.
            on_ready: Called with the port once clients can connect.

        Raises:
            OSError: The address or the port cannot be used.
        """
        server = await asyncio.start_server(self._connection, host, port)
        on_ready(server.sockets[0].getsockname()[1])
        await until.wait()
        self._is_stopping = True
        server.close()
        for task in self._idle:
            task.cancel()
        if connections := {*self._robots, *self._strangers}:
            _, late = await asyncio.wait(connections, timeout=_STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        return self._latencies()

    def _latencies(self) -> Latencies:
        seconds = np.array(self._seconds).reshape(-1, 2)
        (act_p50, request_p50), (act_p95, request_p95) = (
            1000 * np.quantile(seconds, share, axis=0) if len(seconds) else (np.nan, np.nan)
            for share in (0.5, 0.95)
        )
        return Latencies(
            self._num_actions,
            self._sessions.num_begun,
            float(act_p50),
            float(act_p95),
            float(request_p50),
            float(request_p95),
        )

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._strangers) >= MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
        self._strangers[task] = None
        try:
            _keep_alive(writer)
            await self._requests(task, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client is gone or too slow, its place is needed, or the server stops
        finally:
            self._robots.discard(task)
            self._strangers.pop(task, None)
            writer.close()

    async def _requests(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # Strangers get little time. A robot that has shown the token may pause as it likes.
        patience_s: float | None = FIRST_HEAD_S
        is_last = is_unread = False
        while not (is_last or self._is_stopping):
            status = HTTPStatus.OK
            try:
                head = await self._next_head(task, reader, patience_s)
                if head is None:
                    return
                self._check(task, head)
                patience_s = None
                is_last = head.headers.get("connection", "").lower() == "close"
                answer = self._answered(head, await self._body(head, reader, writer))
            except RefusedError as refused:
                status, is_unread = refused.status, refused.is_last
                answer = messages.write({"error": refused.message})
            is_last |= is_unread or self._is_stopping
            write_answer(writer, status, answer, is_last)
            await writer.drain()
        if is_unread:
            writer.write_eof()
            await discard_rest(reader)

    async def _next_head(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, patience_s: float | None
    ) -> Head | None:
        self._idle.add(task)
        try:
            async with asyncio.timeout(patience_s):
                return await read_head(reader)
        finally:
            self._idle.discard(task)

    def _check(self, task: asyncio.Task[None], head: Head) -> None:
        given = head.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, self._authorization):
            message = "The token is missing or wrong: send 'Authorization: Bearer TOKEN'."
            raise RefusedError(HTTPStatus.UNAUTHORIZED, message, is_last=True)
        if task in self._robots:
            return
        if len(self._robots) >= MAX_CONNECTIONS:
            message = f"{MAX_CONNECTIONS} connections are open, which is the most. Close one."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, is_last=True)
        self._strangers.pop(task, None)
        self._robots.add(task)

    async def _body(
        self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        num_bytes = body_bytes(head, MAX_REQUEST_BYTES)
        if head.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # curl waits for it
        async with asyncio.timeout(_BODY_S):
            return await reader.readexactly(num_bytes)

    def _answered(self, head: Head, body: bytes) -> bytes:
        """Returns the answer.

        Raises:
            RefusedError: The request cannot be answered.
        """
        try:
            return self._routed(head.method, head.path.strip("/").split("/"), body)
        except RefusedError:
            raise
        except ValueError as error:
            message, status = _one_line(error), HTTPStatus.BAD_REQUEST
        except UnknownSessionError as error:
            message, status = str(error), HTTPStatus.NOT_FOUND
        except NoRoomError as error:
            message, status = str(error), HTTPStatus.SERVICE_UNAVAILABLE
        except Exception as error:
            # One robot's request must not stop the others.
            _log.exception("%s %s failed", head.method, head.path[:80])
            message = f"The server failed ({type(error).__name__}). Its output has the traceback."
            status = HTTPStatus.INTERNAL_SERVER_ERROR
        raise RefusedError(status, message)

    def _routed(self, method: str, path: list[str], body: bytes) -> bytes:
        match method, path:
            case "GET", ["agent"]:
                return self._description
            case "POST", ["sessions"]:
                episodes = messages.read(Episodes, body)
                session = self._sessions.begin(episodes.num_episodes, episodes.seed)
                return messages.write({"session": session})
            case "POST", ["sessions", session, "act"]:
                return self._act(session, body)
            case "POST", ["sessions", session, "reset"]:
                episodes = messages.read(Episodes, body)
                self._sessions.reset(session, episodes.num_episodes, episodes.seed)
            case "POST", ["sessions", session, "reset_where"]:
                is_over = messages.read(EpisodesThatEnd, body).is_over
                agent = self._sessions.agent(session)
                agent.reset_where(messages.to_numpy("is_over", is_over))
            case "DELETE", ["sessions", session]:
                self._sessions.close(session)
            case _:
                raise RefusedError(
                    HTTPStatus.NOT_FOUND,
                    f"{method[:10]} /{'/'.join(path)[:80]} is not served. Requests are GET /agent, "
                    "POST /sessions, POST /sessions/ID/act, POST /sessions/ID/reset, POST "
                    "/sessions/ID/reset_where and DELETE /sessions/ID.",
                )
        return messages.write({})

    def _act(self, session: str, body: bytes) -> bytes:
        begin_s = time.perf_counter()
        obs = messages.read(Observation, body).to_numpy()
        agent = self._sessions.agent(session)
        act_begin_s = time.perf_counter()
        action = agent.act(obs)
        act_s = time.perf_counter() - act_begin_s
        answer = messages.write({"action": messages.from_numpy(np.asarray(action))})
        self._num_actions += 1
        self._seconds.append((act_s, time.perf_counter() - begin_s))
        return answer


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Notices a robot that is gone without a word, within two minutes."""
    sock: Any = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        with suppress(AttributeError, OSError):  # other systems have other names
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
