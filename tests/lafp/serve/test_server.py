"""The policy server as its own process on loopback, and robots beside it."""

import ast
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest

import lafp
from lafp.serve import client as client_module
from lafp.serve.client import RemoteAgent, ServerError
from lafp.serve.server import FIRST_HEAD_S, MAX_CONNECTIONS, MAX_STRANGERS
from lafp.types import ActionSpec
from tests import http_server
from tests.lafp.test_agent import play, video, write_decoder, write_policy
from tests.test_install import CORE_ONLY, blocked

ROOT = Path(__file__).parents[3]
TOKEN = "a-token-for-tests-only"


class Server:
    """A running server: its address, and its output so far."""

    def __init__(self, process):
        self.process, self.lines = process, []
        for line in process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("serving at "):
                self.url = line.split()[-1]
                return
        raise AssertionError(f"{self.lines} {process.stderr.read()}")

    def stop(self, number=signal.SIGTERM):
        """Returns exit code and the rest of the output."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@contextmanager
def serving(run, *args, token=TOKEN):
    """Serves with the packages of the core alone."""
    code = CORE_ONLY.replace("{blocked}", repr(blocked() | {"msgpack"}))
    code += "from ray_jobs.command import main\nmain()\n"
    env = {**os.environ, **({"LAFP_SERVE_TOKEN": token} if token else {})}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(run), "--port", "0", *args],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env,
    )  # fmt: skip
    try:
        yield Server(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An agent with every kind of memory: frame stack, action chunk, warm start, noise."""
    folder = tmp_path_factory.mktemp("run")
    write_policy(folder, "latent_flow", chunk_steps=3, noise="warm_start", state_dim=2)
    write_decoder(folder, "mine", "latent_flow", embed_dim=10)
    return str(folder)


@pytest.fixture(scope="module")
def server(run):
    with serving(run) as server:
        yield server


@pytest.fixture
def robot(server):
    with RemoteAgent(server.url, TOKEN) as agent:
        yield agent


def observations(num_steps, num_episodes=1, seed=0):
    states = np.random.default_rng(seed).normal(size=(num_steps, num_episodes, 2))
    frames = video(num_steps, num_episodes, seed)
    return [{"image": f, "state": s} for f, s in zip(frames, states, strict=True)]


def acted(agent, observations, seed=0):
    agent.reset(len(observations[0]["image"]), seed)
    return np.stack([agent.act(obs) for obs in observations])


def ask(server, method, path, message=None, token=TOKEN, body=None, headers=None):
    """A request without the client. Returns status and answer."""
    connection = http.client.HTTPConnection(*server.url.removeprefix("http://").split(":"))
    given = {"Authorization": f"Bearer {token}"} if token else {}
    body = msgpack.packb(message) if body is None else body
    connection.request(method, path, body, given | (headers or {}))
    with connection.getresponse() as response:
        answer = response.status, msgpack.unpackb(response.read())
    connection.close()
    return answer


def test_answers_are_those_of_the_agent_bit_for_bit(run, robot):
    steps = observations(7, num_episodes=3)
    there, here = acted(robot, steps, seed=4), acted(lafp.Agent.load(run), steps, seed=4)
    assert there.dtype == here.dtype == np.float32
    np.testing.assert_array_equal(there, here)
    single = {name: array[0] for name, array in observations(1)[0].items()}
    local = lafp.Agent.load(run)
    robot.reset(seed=9)
    local.reset(seed=9)
    np.testing.assert_array_equal(robot.act(single), local.act(single))


def test_two_robots_at_once_keep_their_own_episodes(run, server, robot):
    steps, others = observations(6, seed=1), observations(6, num_episodes=2, seed=2)
    expected = [acted(lafp.Agent.load(run), taken, seed=3) for taken in (steps, others)]
    with RemoteAgent(server.url, TOKEN) as second:
        robot.reset(1, seed=3)
        second.reset(2, seed=3)
        turns = [(robot.act(a), second.act(b)) for a, b in zip(steps, others, strict=True)]
    for found, wanted in zip(zip(*turns, strict=True), expected, strict=True):
        np.testing.assert_array_equal(np.stack(found), wanted)


def test_eight_robots_in_threads_get_what_each_would_get_alone(run, server):
    found = {}

    def control(number):
        with RemoteAgent(server.url, TOKEN) as agent:
            found[number] = acted(agent, observations(5, seed=number), seed=number)

    threads = [threading.Thread(target=control, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    local = lafp.Agent.load(run)
    for number in range(8):
        wanted = acted(local, observations(5, seed=number), seed=number)
        np.testing.assert_array_equal(found[number], wanted)


def test_an_episode_that_ends_begins_anew_there_too(run, robot):
    steps, is_over = observations(5, num_episodes=2), np.array([False, True])
    agents = robot, lafp.Agent.load(run)
    actions = []
    for agent in agents:
        agent.reset(2)
        taken = [agent.act(obs) for obs in steps[:3]]
        agent.reset_where(is_over)
        actions.append(taken + [agent.act(obs) for obs in steps[3:]])
    np.testing.assert_array_equal(*actions)
    with pytest.raises(ServerError, match=r"Expected 2 booleans.*got bool of shape \[3\]"):
        robot.reset_where(np.zeros(3, np.bool_))


def test_the_client_knows_what_the_agent_reads(run, robot):
    agent = lafp.Agent.load(run)
    assert (robot.fps, robot.reads) == (agent.fps, agent.reads)
    assert robot.obs == vars(agent.obs)
    assert robot.action["dim"] == 3 and tuple(robot.action["high"]) == agent.action.high


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({"image": np.zeros((16, 12, 3), np.uint8), "state": [0.0, 0.0]},
         r"Expected observations \[12, 16, 3\].*got an array of shape \[16, 12, 3\]"),
        ({"image": np.zeros((1080, 1920, 3), np.uint8), "state": [0.0, 0.0]},
         r"Expected observations \[12, 16, 3\].*\[1080, 1920, 3\].*Resize"),
        ({"image": np.zeros((12, 16, 3), np.float32), "state": [0.0, 0.0]}, "Expected uint8"),
        ({"image": np.zeros((12, 16, 3), np.uint8)}, "reads image and state, got image"),
        ({"image": np.zeros((12, 16, 3), np.uint8), "state": [0.0, np.nan]}, "not finite"),
        ({"image": np.zeros((12, 16, 3), np.uint8), "state": [0.0]}, r"Expected states \[1, 2\]"),
        ({"image": np.zeros((12, 16, 3), np.uint8), "lidar": [0.0]}, "unknown field `lidar`"),
        ({"image": np.zeros((12, 16, 3), np.uint8), "state": ["a", "b"]}, "dtype is 'str32'"),
        (np.zeros((1, 1, 12, 16, 3), np.uint8), "expected up to 4 sizes"),
    ],
)  # fmt: skip
def test_a_wrong_observation_is_refused_in_one_line_and_changes_nothing(run, robot, obs, words):
    steps = observations(4)
    robot.reset(1, seed=5)
    actions = [robot.act(steps[0])]
    with pytest.raises(ServerError, match=words) as error:
        robot.act(obs)
    assert "\n" not in str(error.value)
    actions += [robot.act(step) for step in steps[1:]]
    np.testing.assert_array_equal(actions, acted(lafp.Agent.load(run), steps, seed=5))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"dtype": "uint8", "shape": [2, 2], "data": b"123"}, "takes 4 bytes, got 3"),
        ({"dtype": "O", "shape": [1], "data": b"12345678"}, "the dtype is 'O', expected one of"),
        ({"dtype": "uint8", "shape": [0, 1 << 63], "data": b""}, "sizes from 0 to"),
        ({"dtype": "uint8", "shape": [-1], "data": b""}, "sizes from 0 to"),
        ({"dtype": "uint8", "shape": [0, 12, 16, 3], "data": b""}, r"an array of shape \[0, 12"),
        ({"dtype": "uint8", "shape": [1], "data": "text"}, r"Expected `bytes`.*\$\.image\.data"),
        ([1, 2], "Expected `object.*got `array`"),
    ],
)  # fmt: skip
def test_arrays_that_contradict_themselves_are_refused(server, robot, message, words):
    state = {"dtype": "float32", "shape": [2], "data": b"\0" * 8}
    sent = {"image": message, "state": state}
    status, answer = ask(server, "POST", f"/sessions/{robot._session}/act", sent)
    assert status == 400 and re.search(words, answer["error"]), answer


def test_only_the_token_opens_the_server(server):
    for token in ("", "wrong", TOKEN[:-1], TOKEN + "x", "tökén"):
        with pytest.raises((ServerError, UnicodeError), match=r"token is missing or wrong|latin"):
            RemoteAgent(server.url, token or "none")
    for path in ("/agent", "/sessions", "/nothing"):
        status, answer = ask(server, "GET", path, token=None)
        assert status == 401 and "Authorization: Bearer TOKEN" in answer["error"]


def test_a_body_that_is_too_large_is_refused_and_the_answer_arrives(server, robot):
    image = np.zeros((4, 2000, 2000, 3), np.uint8)
    with pytest.raises(ServerError, match=r"body has 480\d+ bytes, at most 16777216 are read"):
        robot.act(image)
    robot.act({name: array[0] for name, array in observations(1)[0].items()})
    status, _ = ask(server, "POST", "/sessions", body=b"", headers={"Content-Length": "9" * 30})
    assert status == 400


def test_what_is_no_request_of_the_protocol_is_refused(server):
    assert ask(server, "POST", "/sessions", body=b"\xc1")[0] == 400
    assert ask(server, "POST", "/sessions", body=b"\x91" * 100_000)[0] == 400
    assert ask(server, "POST", "/sessions", {"num_episodes": 0})[0] == 400
    assert "at most" in ask(server, "POST", "/sessions", {"num_episodes": 1 << 40})[1]["error"]
    assert "seed must be" in ask(server, "POST", "/sessions", {"seed": -1})[1]["error"]
    status, answer = ask(server, "PUT", "/agents")
    assert status == 404 and "PUT /agents is not served" in answer["error"]
    chunked = ask(server, "POST", "/sessions", body=iter([b"\x80"]))
    assert chunked[0] == 411 and "Content-Length" in chunked[1]["error"]


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET /agent HTTP/1.1\r\nbroken\r\n\r\n",
        b"GET /agent HTTP/1.1\r\nContent-Length: 0\r\ncontent-length: 5\r\n\r\n",
        b"GET /agent HTTP/1.1\r\nName: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /agent HTTP/1.1\r\nName: " + b"x" * 200_000,
    ],
)
def test_broken_requests_get_an_answer_and_an_end(server, raw):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(raw)
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert answer.startswith(b"HTTP/1.1 400 ") and b"The request's headers" in answer


def test_a_session_that_is_not_there_is_named(server, robot):
    robot.close()
    for verb in ("act", "reset"):
        status, answer = ask(server, "POST", f"/sessions/{robot._session}/{verb}", {})
        assert status == 404 and f"no session '{robot._session}'" in answer["error"]
    assert ask(server, "DELETE", "/sessions/other")[0] == 404


def test_a_robot_that_vanishes_in_the_middle_of_a_request_disturbs_nobody(server, robot):
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /sessions/{robot._session}/act HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
    robot.act({name: array[0] for name, array in observations(1)[0].items()})


def test_strangers_take_the_places_of_strangers_and_never_that_of_a_robot(run):
    with serving(run) as server, ExitStack() as stack:
        host, port = server.url.removeprefix("http://").split(":")

        def connected():
            # Shorter than the patience with strangers, so that its end closes no connection here.
            sock = socket.create_connection((host, int(port)), timeout=FIRST_HEAD_S / 2)
            return stack.enter_context(sock)

        def status(sock, header=f"Authorization: Bearer {TOKEN}\r\n"):
            sock.sendall(f"GET /agent HTTP/1.1\r\n{header}\r\n".encode())
            return int(sock.recv(1 << 16).split(b" ")[1])

        robots = [connected()]
        assert status(robots[0]) == 200
        strangers = [connected() for _ in range(MAX_STRANGERS + MAX_CONNECTIONS)]
        # The older ones have lost their places, so strangers cannot fill the memory.
        assert {sock.recv(1) for sock in strangers[:MAX_CONNECTIONS]} == {b""}
        robots += [connected() for _ in range(3)]
        assert [status(sock) for sock in robots] == [200] * 4
        assert status(strangers[-1], header="") == 401
        for _ in range(MAX_CONNECTIONS - len(robots)):
            robots.append(connected())
            assert status(robots[-1]) == 200
        assert status(connected()) == 503
        assert status(robots[0]) == status(robots[-1]) == 200
        robots.pop().close()
        while (answer := status(connected())) == 503:
            time.sleep(0.01)
        assert answer == 200


def test_discrete_actions_keep_their_type(tmp_path):
    write_policy(tmp_path, "latent_bc")
    write_decoder(tmp_path, "buttons", "latent_bc", ActionSpec(dim=5, is_discrete=True))
    frames = video(3)
    with serving(tmp_path) as server, RemoteAgent(server.url, TOKEN) as agent:
        there, here = play(agent, frames), play(lafp.Agent.load(tmp_path), frames)
        one = agent.act(frames[0, 0])
    assert there.dtype == here.dtype == np.int64 and one.shape == ()
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_which_prints_its_latency(run, number):
    with serving(run) as server:
        robots = [RemoteAgent(server.url, TOKEN) for _ in range(2)]
        for robot in robots:
            acted(robot, observations(3))
        code, out, err = server.stop(number)
        assert code == 0 and err == ""
        assert re.match(r"stopped: 6 actions in 2 sessions; agent p50 [\d.]+ ms, p95 ", out), out
        with pytest.raises(ServerError, match="does not answer") as error:
            robots[0].act(observations(1)[0])
        assert "\n" not in str(error.value)


def test_a_request_that_has_begun_is_answered_before_the_end(run):
    with serving(run) as server:
        host, port = server.url.removeprefix("http://").split(":")
        begin = f"POST /sessions HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(f"{begin}Expect: 100-continue\r\nContent-Length: 1\r\n\r\n".encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 100 ")  # the server waits for the body
            server.process.send_signal(signal.SIGTERM)
            sock.settimeout(1)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.sendall(b"\x80")
            sock.settimeout(10)
            answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK") and b"Connection: close" in answer
        assert server.process.wait(10) == 0


def test_without_a_token_one_is_made_and_printed(run):
    with serving(run, token=None) as server:
        (token,) = [line.removeprefix("token: ") for line in server.lines if "token: " in line]
        assert len(token) >= 40
        with RemoteAgent(server.url, token) as robot:
            assert robot.fps == 10


@pytest.mark.parametrize(
    ("token", "args", "words"),
    [
        ("short", (), "LAFP_SERVE_TOKEN must have at least 16 ASCII characters"),
        (TOKEN, ("--host", "203.0.113.1"), "Cannot listen at --host 203.0.113.1"),
        (TOKEN, ("--port", "99999"), "Cannot listen at --host 127.0.0.1 --port 99999"),
        (TOKEN, ("--action-decoder", "other"), "no finished decoder 'other'"),
    ],
)
def test_a_wrong_start_is_one_line(run, token, args, words):
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.serve", run, "--port", "0", *args],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "LAFP_SERVE_TOKEN": token},
    )  # fmt: skip
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_server_for_other_machines_says_that_nothing_is_encrypted(run):
    with serving(run, "--host", "0.0.0.0") as server:
        assert any("nothing is encrypted" in line for line in server.lines)
    with serving(run) as server:
        assert not any("encrypted" in line for line in server.lines)


def test_the_client_is_one_file_for_old_pythons_that_needs_numpy_and_msgpack_only(server, tmp_path):
    source = Path(client_module.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    (tmp_path / "lafp_client.py").write_text(source)
    code = (
        "import sys\nfrom lafp_client import RemoteAgent\n"
        f"with RemoteAgent({server.url!r}, {TOKEN!r}) as agent: print(agent.fps)\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'lafp', 'torch', 'msgspec'})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "10\nset()\n" or done.stdout == "10.0\nset()\n", done.stderr


def test_what_does_not_speak_the_protocol_is_named():
    for url in ("127.0.0.1:8470", "http://host:99999999", "http://host:many", "http://[::1"):
        with pytest.raises(ServerError, match="is no address of a server"):
            RemoteAgent(url, TOKEN)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ServerError, match="does not answer"):
            RemoteAgent(f"http://127.0.0.1:{sock.getsockname()[1]}", TOKEN)
    with http_server.serving() as host, pytest.raises(ServerError, match="is no policy server"):
        RemoteAgent(host.url, TOKEN)
