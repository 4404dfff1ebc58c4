import pytest

import lafp
from lafp.serve import sessions as module
from lafp.serve.sessions import MAX_SESSIONS, NoRoomError, Sessions, UnknownSessionError
from tests.lafp.test_agent import run  # noqa: F401 - a fixture


@pytest.fixture
def clock(monkeypatch):
    """Time that the test moves."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_only_a_session_that_nobody_uses_makes_room(run, clock):  # noqa: F811
    sessions = Sessions(lafp.Agent.load(run), 1 << 20, 4096)
    first, *_ = ids = [sessions.begin(1, 0) for _ in range(MAX_SESSIONS)]
    assert len(set(ids)) == MAX_SESSIONS
    with pytest.raises(NoRoomError, match=f"{MAX_SESSIONS} sessions are open"):
        sessions.begin(1, 0)
    clock[0] = module.IDLE_S + 1
    sessions.agent(first)
    sessions.begin(1, 0)
    sessions.agent(first)
    with pytest.raises(UnknownSessionError):
        sessions.agent(ids[1])


def test_the_sessions_share_weights_and_nothing_else(run):  # noqa: F811
    agent = lafp.Agent.load(run)
    sessions = Sessions(agent, 1 << 20, 4096)
    one, two = (sessions.agent(sessions.begin(1, 0)) for _ in range(2))
    assert one.policy is two.policy is agent.policy
    assert one._generator is not two._generator
