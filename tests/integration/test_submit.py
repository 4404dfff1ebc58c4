"""``ray start --head`` and ``ray job submit`` with a token, as the README shows them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lafp.train.checkpoints import is_whole
from tests.integration.conftest import CONFIG, ROOT
from tests.synthetic_shards import write_shard_set

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
        "LAFP_TEST_METRICS_PORT": str(free_port()),
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
    }
    head = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--num-cpus", "8", "--disable-usage-stats"),
            *("--node-ip-address", "127.0.0.1", "--port", str(free_port())),
            *("--dashboard-port", str(dashboard), "--ray-client-server-port", str(free_port())),
            *("--metrics-export-port", environment["LAFP_TEST_METRICS_PORT"]),
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


def submit(
    environment: dict[str, str], *command: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [RAY, "job", "submit", *options, "--working-dir", ".", "--", "python", "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def scraped(environment: dict[str, str]) -> dict[str, float]:
    """Our own metrics in the head's Prometheus endpoint: largest value of each, tags aside."""
    url = f"http://127.0.0.1:{environment['LAFP_TEST_METRICS_PORT']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    values: dict[str, float] = {}
    for line in lines:
        if line.startswith("ray_lafp_"):
            name, value = line.split("{")[0], float(line.rpartition(" ")[2])
            values[name] = max(value, values.get(name, 0.0))
    return values


def test_the_pipeline_runs_as_a_submitted_job_and_prometheus_sees_it(cluster, tmp_path):
    command = ("ray_jobs.pipeline", CONFIG, "--storage", str(tmp_path), "--run-name", "run")
    seen: dict[str, float] = {}
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(submit, cluster, *command)
        while not job.done():
            seen |= scraped(cluster)
            time.sleep(1)
    result = job.result()
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert (tmp_path / "run" / "report.html").exists()
    dashboard = json.loads((ROOT / "infra/monitoring/grafana.json").read_text())
    queries = " ".join(target["expr"] for p in dashboard["panels"] for target in p["targets"])
    assert seen["ray_lafp_preprocess_clips_total"] > 0
    assert seen["ray_lafp_preprocess_frames_total"] > seen["ray_lafp_preprocess_clips_total"]
    assert seen["ray_lafp_train_step"] > 0 and seen["ray_lafp_train_windows_per_s"] > 0
    assert all(name in queries for name in seen)


def test_a_job_with_a_wrong_config_fails_with_its_message(cluster):
    result = submit(cluster, "ray_jobs.pipeline", CONFIG, "evaluate.num_episode=3")
    assert result.returncode != 0
    assert "Did you mean: 'num_episodes'" in result.stdout


@pytest.mark.slow
def test_a_stopped_job_has_saved_the_step_that_it_names(cluster, tmp_path):
    shards = write_shard_set(tmp_path / "shards", num_clips=20)
    command = (
        *("ray_jobs.train_lam", "configs/train_lam/lapo_debug.yaml", f"shards={shards}"),
        *("window.windows_per_clip=2", "train.num_workers=2", "train.num_steps=1000000"),
        *("train.checkpoint_every_steps=1000000", "train.evaluate_every_steps=1000000"),
        *("--storage", str(tmp_path), "--run-name", "run"),
    )
    job = "to-be-stopped"
    submit(cluster, *command, options=("--no-wait", "--submission-id", job))
    metrics = tmp_path / "run" / "lam" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    subprocess.run([RAY, "job", "stop", job], env=cluster, check=True, timeout=180)
    logs = subprocess.run(
        [RAY, "job", "logs", job], env=cluster, capture_output=True, text=True, check=True
    ).stdout
    stopped_at = int(re.search(r"Stopped at step (\d+) of 1000000, with a checkpoint", logs)[1])
    [checkpoint] = (tmp_path / "run" / "lam" / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{stopped_at:09d}" and is_whole(str(checkpoint))


def test_the_doctor_finds_the_cluster_healthy(cluster, tmp_path):
    result = submit(cluster, "ray_jobs.doctor", "--storage", str(tmp_path))
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "dashboard at http" in result.stdout and "answers (HTTP" in result.stdout
    assert "token authentication is on" in result.stdout
    assert "0 failed" in result.stdout
