"""A real cluster on this machine: ``ray start`` as processes of their own, with a token."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RAY = str(Path(sys.executable).with_name("ray"))


TOKEN = "0123456789abcdef" * 4


@dataclass(frozen=True, kw_only=True)
class RealCluster:
    """What its clients need to know."""

    environment: dict[str, str]
    """Of a client. ``PATH`` is that of an activated environment: entrypoints say `python`."""
    address: str
    """``RAY_ADDRESS`` of a driver that joins without being submitted."""
    metrics_port: int
    """Of the head's Prometheus endpoint."""
    nodes: dict[str, subprocess.Popen] = field(default_factory=dict)
    """By ``role``, the head left out."""

    def kill_node(self, role: str) -> None:
        """SIGKILL to all of its processes."""
        os.killpg(self.nodes[role].pid, signal.SIGKILL)
        self.nodes[role].wait()

    def listed(self, what: str, **filters: str) -> list[dict[str, Any]]:
        """``nodes``, ``tasks`` or ``actors`` by Ray's state API, with those values."""
        query = [("detail", "true"), ("limit", "10000")]
        for key, value in filters.items():
            query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        request = urllib.request.Request(
            f"{self.environment['RAY_API_SERVER_ADDRESS']}/api/v0/{what}?"
            + urllib.parse.urlencode(query),
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            rows: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        return rows


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def real_cluster(
    folder: Path, variables: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]
) -> Iterator[RealCluster]:
    """A head without CPUs, and other nodes.

    Args:
        folder: For the token and the nodes' logs.
        variables: Environment of all.
        nodes: What a node's label ``role`` says -> variables that only that node has.
    """
    (folder / "token").write_text(TOKEN)
    port, dashboard, metrics = free_port(), free_port(), free_port()
    environment = dict(variables) | {
        "PATH": f"{Path(sys.executable).parent}:{variables['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
    }
    address = f"127.0.0.1:{port}"
    cluster = RealCluster(environment=environment, address=address, metrics_port=metrics)
    # Short paths, for Unix sockets. One for each node: what comes with a job is unpacked there.
    folders = [tempfile.mkdtemp(prefix="lafp-ray-", dir="/tmp") for _ in range(1 + len(nodes))]
    head = [
        *("--head", "--num-cpus", "0", "--node-ip-address", "127.0.0.1", "--port", str(port)),
        *("--dashboard-port", str(dashboard), "--metrics-export-port", str(metrics)),
        *("--ray-client-server-port", str(free_port())),
    ]
    head_node = start_node([*head, "--temp-dir", folders[0]], environment, folder / "head.log")
    try:
        wait_until_up(environment, head_node)
        for n, (role, more) in enumerate(nodes.items(), 1):
            options = ["--address", address, "--temp-dir", folders[n], "--num-cpus", "4"]
            # An address of its own, so that drivers join the head.
            options += ["--node-ip-address", f"127.0.0.{1 + n}"]
            options += ["--labels", f"role={role}"]
            cluster.nodes[role] = start_node(options, environment | more, folder / f"{role}.log")
        wait_for_nodes(cluster, [head_node, *cluster.nodes.values()])
        yield cluster
    finally:
        for node in (head_node, *cluster.nodes.values()):
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)  # asked to end, they take half a minute
            node.wait()
        for temp in folders:
            shutil.rmtree(temp, ignore_errors=True)


def start_node(options: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(RAY, "start", "--block", "--disable-usage-stats"),
            # Several nodes share this machine's ports.
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *("--dashboard-agent-listen-port", str(free_port())),
            *options,
        ],
        env=environment,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_until_up(environment: dict[str, str], head: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    submit_nothing = [RAY, "job", "submit", "--", "true"]  # the agent starts after the dashboard
    while subprocess.run(submit_nothing, env=environment, capture_output=True).returncode:
        assert head.poll() is None and time.monotonic() < deadline, "the head node does not answer"
        time.sleep(1)


def wait_for_nodes(cluster: RealCluster, started: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 120
    while len(cluster.listed("nodes", state="ALIVE")) < len(started):
        are_alive = all(node.poll() is None for node in started)
        assert are_alive and time.monotonic() < deadline, "a node did not come up"
        time.sleep(1)
