"""``ray start --head`` and ``ray job submit`` with a token, as the README shows them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.conftest import CONFIG, ROOT

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Environment of a client of a head node that runs as processes of its own."""
    token = tmp_path_factory.mktemp("ray-token") / "token"
    token.write_text("0123456789abcdef" * 4)
    dashboard = free_port()
    environment = os.environ | {
        # As in an activated environment: the entrypoint says `python`.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    head = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--num-cpus", "8", "--disable-usage-stats"),
            *("--node-ip-address", "127.0.0.1", "--port", str(free_port())),
            *("--dashboard-port", str(dashboard), "--ray-client-server-port", str(free_port())),
            # A short path: Unix sockets allow 107 characters.
            *("--temp-dir", f"/tmp/lafp-ray-{os.getpid()}"),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_up(environment, head)
        yield environment
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)


def wait_until_up(environment: dict[str, str], head: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    submit_nothing = [RAY, "job", "submit", "--", "true"]  # the agent starts after the dashboard
    while subprocess.run(submit_nothing, env=environment, capture_output=True).returncode:
        assert head.poll() is None and time.monotonic() < deadline, "the head node does not answer"
        time.sleep(1)


def submit(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [RAY, "job", "submit", "--working-dir", ".", "--", "python", "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_the_pipeline_runs_as_a_submitted_job(cluster, tmp_path):
    result = submit(
        cluster, "ray_jobs.pipeline", CONFIG, "--storage", str(tmp_path), "--run-name", "run"
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_job_with_a_wrong_config_fails_with_its_message(cluster):
    result = submit(cluster, "ray_jobs.pipeline", CONFIG, "evaluate.num_episode=3")
    assert result.returncode != 0
    assert "Did you mean: 'num_episodes'" in result.stdout
