"""Keeps an agent for each robot that the policy server controls, all on the same models."""

import secrets
import time
from dataclasses import dataclass

from lafp.agent import Agent

MAX_SESSIONS = 64
IDLE_S = 600.0
"""Time after which a session that nobody used may make room for another one."""


class UnknownSessionError(Exception):
    """There is no session of that id."""


class NoRoomError(Exception):
    """No session is free, and none was idle for long."""


@dataclass
class Session:
    """One robot, or several that step together."""

    agent: Agent
    used_s: float
    """Monotonic time of the last request."""


class Sessions:
    """Holds the sessions by id.

    Args:
        agent: Its models serve all sessions.
        max_bytes: Largest size of one request, which limits the episodes of a session.
        room_bytes: Part of it that is not for observations.
    """

    def __init__(self, agent: Agent, max_bytes: int, room_bytes: int) -> None:
        self._agent = agent
        self._sessions: dict[str, Session] = {}
        obs = agent.obs
        # Vectors may come as float64.
        episode_bytes = obs.height_px * obs.width_px * 3 + obs.vector_dim * 8
        self._max_episodes = max(1, (max_bytes - room_bytes) // episode_bytes)
        self.num_begun = 0

    def begin(self, num_episodes: int, seed: int) -> str:
        """Begins a session and returns its id.

        Raises:
            NoRoomError: There are too many sessions, all in use.
            ValueError: The episodes are too few or too many, or the seed is out of range.
        """
        agent = self._agent.sibling()
        self._reset(agent, num_episodes, seed)
        self._make_room()
        # Random, so that no robot acts in the session of another one by a mistyped number.
        session_id = secrets.token_hex(8)
        self._sessions[session_id] = Session(agent, time.monotonic())
        self.num_begun += 1
        return session_id

    def agent(self, session_id: str) -> Agent:
        """Returns the agent of a session, which is in use from now on.

        Raises:
            UnknownSessionError: There is no such session.
        """
        session = self._sessions.get(session_id)
        if session is None:
            raise UnknownSessionError(
                f"There is no session {session_id[:40]!r}. It was closed, made room for another "
                f"one after {IDLE_S:g} s without a request, or began before the server was "
                "started again. Begin a new one: POST /sessions."
            )
        session.used_s = time.monotonic()
        return session.agent

    def reset(self, session_id: str, num_episodes: int, seed: int) -> None:
        """Begins new episodes in a session. See ``begin`` and ``agent`` for the errors."""
        self._reset(self.agent(session_id), num_episodes, seed)

    def close(self, session_id: str) -> None:
        """Ends a session.

        Raises:
            UnknownSessionError: There is no such session.
        """
        self.agent(session_id)
        del self._sessions[session_id]

    def _reset(self, agent: Agent, num_episodes: int, seed: int) -> None:
        if num_episodes > self._max_episodes:
            raise ValueError(
                f"num_episodes must be at most {self._max_episodes}, whose observations fit into "
                f"one request, got {num_episodes}. Use several sessions."
            )
        if not 0 <= seed < 1 << 63:
            raise ValueError(f"seed must be in [0, 2^63), got {seed}.")
        agent.reset(num_episodes, seed)

    def _make_room(self) -> None:
        if len(self._sessions) < MAX_SESSIONS:
            return
        oldest = min(self._sessions, key=lambda key: self._sessions[key].used_s)
        idle_s = time.monotonic() - self._sessions[oldest].used_s
        if idle_s < IDLE_S:
            raise NoRoomError(
                f"{MAX_SESSIONS} sessions are open, which is the most, and each was used within "
                f"the last {IDLE_S:g} s. Close one: DELETE /sessions/ID."
            )
        del self._sessions[oldest]
