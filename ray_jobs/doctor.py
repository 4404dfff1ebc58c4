r"""Checks this installation and the cluster, and says what to fix.

python -m ray_jobs.doctor
RAY_ADDRESS=auto python -m ray_jobs.doctor --storage s3://bucket/runs

On every node it checks Python and packages (the same on all nodes), codecs, GPUs, DeepSpeed and the
storage (all nodes must see what one of them writes). It also checks Ray: resources, object stores,
dashboard and token. The exit code is 1 if something will not work.
"""

from ray_jobs.core import home
from ray_jobs.core.cli import described_parser, exit_codes
from ray_jobs.core.early_checks import check_installed, storage_uri


def parse() -> str:
    """Returns the URI of ``--storage``. Ends the process if the command line is wrong."""
    parser = described_parser("python -m ray_jobs.doctor", __doc__)
    parser.add_argument(
        "--storage",
        default="runs",
        help="folder or URI (s3://, gs://, az://) of all runs (default: %(default)s)",
    )
    args = parser.parse_args()
    with exit_codes():
        check_installed("doctor", "data")
        return storage_uri(args.storage)


if __name__ == "__main__":
    parse()  # a wrong command line is answered before the imports that take long
    home.make_usable()

import logging
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lafp import storage
from lafp.config import ConfigError
from ray_jobs.core.cluster import Resources, connect
from ray_jobs.core.node_checks import Finding, NodeFacts, look, sees_mark, write_mark

_NODE_TIMEOUT_S = 120
_MIN_OBJECT_STORE_BYTES = 1 << 30
_SIGNS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def main() -> None:
    """Parses the command line, runs all checks and prints the findings."""
    uri = parse()
    with exit_codes():
        findings = examine(uri)
    for finding in findings:
        print(f"{_SIGNS[finding.level]}  {finding.what}")
        if finding.fix:
            print(f"      to do: {finding.fix}")
    num_failed = sum(finding.level == "fail" for finding in findings)
    num_warned = sum(finding.level == "warn" for finding in findings)
    print(f"{len(findings)} checks, {num_failed} failed, {num_warned} warnings")
    sys.exit(1 if num_failed else 0)


def examine(uri: str) -> list[Finding]:
    """Runs all checks.

    Args:
        uri: Folder of all runs.

    Raises:
        ConfigError: Ray cannot be reached or started.
    """
    try:
        connect(Resources(num_cpus=1))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Cannot reach Ray at {os.environ.get('RAY_ADDRESS', 'this machine')}: {error}. Start "
            "it with `ray start --head`, or unset RAY_ADDRESS to use this machine alone."
        ) from error
    nodes = [node for node in ray.nodes() if node["Alive"]]
    findings = list(_ray(nodes))
    facts = dict(_on_every_node(nodes, findings, uri))
    for host, node in facts.items():
        findings += [_at(host, finding) for finding in node.findings]
    return [*findings, *_differences(facts), *_shared(nodes, uri)]


def _at(host: str, finding: Finding) -> Finding:
    return Finding(level=finding.level, what=f"{host}: {finding.what}", fix=finding.fix)


def _on(node: dict[str, Any], function: Any, *args: Any) -> "ray.ObjectRef":
    # On this node or not at all: another node's answer would hide what is wrong here.
    where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
    # The task takes no CPU, so that busy nodes are checked too.
    task = ray.remote(function).options(num_cpus=0, scheduling_strategy=where, max_retries=0)
    return task.remote(*args)


def _on_every_node(
    nodes: Sequence[dict[str, Any]], findings: list[Finding], uri: str
) -> Iterator[tuple[str, NodeFacts]]:
    # All nodes are asked before the first answer is awaited, so they check at the same time.
    asked = [(node, _on(node, look, uri, node["Resources"].get("GPU", 0) > 0)) for node in nodes]
    for node, ref in asked:
        name = node["NodeManagerAddress"]
        try:
            facts: NodeFacts = ray.get(ref, timeout=_NODE_TIMEOUT_S)
            yield f"{facts.host} ({node['NodeID'][:6]})", facts
        except (ray.exceptions.RayError, TimeoutError) as error:
            text = (str(error).strip() or repr(error)).splitlines()[-1]
            findings.append(
                Finding(
                    level="fail",
                    what=f"{name}: no task of lafp runs there: {text}",
                    fix="install lafp on the node, or submit with runtime_env (working_dir, pip)",
                )
            )


def _ray(nodes: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    total = ray.cluster_resources()
    yield Finding(
        level="ok",
        what=f"Ray {ray.__version__}: {len(nodes)} nodes, {total.get('CPU', 0):g} CPUs, "
        f"{total.get('GPU', 0):g} GPUs",
    )
    if total.get("CPU", 0) < 3:
        yield Finding(
            level="warn",
            what=f"{total.get('CPU', 0):g} logical CPUs: a training worker with Ray Data readers "
            "needs 3",
            fix="ray start --num-cpus 4 (cores may be shared), or train.ingest.mode=direct",
        )
    for node in nodes:
        num_bytes = node["Resources"].get("object_store_memory", 0)
        if num_bytes < _MIN_OBJECT_STORE_BYTES:
            yield Finding(
                level="warn",
                what=f"{node['NodeManagerAddress']}: object store of {num_bytes / 1e9:.2g} GB; Ray "
                "Data will spill to disk",
                fix="a larger /dev/shm (docker run --shm-size 10g), or ray start "
                "--object-store-memory",
            )
    if os.environ.get("RAY_ADDRESS"):
        yield _dashboard()
        yield _token()


def _dashboard() -> Finding:
    # Ray is initialized already, so this returns the existing context.
    context: Any = ray.init(ignore_reinit_error=True, logging_level=logging.WARNING)
    url = context.address_info["webui_url"]
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or (f"http://{url}" if url else "")
    if not address:
        return Finding(
            level="warn",
            what="no dashboard: `ray job submit` will not work",
            fix="pip install 'ray[default]' on the head and start it with --include-dashboard=true",
        )
    try:
        # The address comes from Ray or from the user's own environment.
        url = f"{address}/api/version"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        return Finding(
            level="warn",
            what=f"the dashboard at {address} does not answer: {error}",
            fix="open port 8265 of the head, or forward it: ray dashboard CLUSTER.yaml",
        )
    # With token authentication, the dashboard answers 401 without a token, so it does run.
    return Finding(level="ok", what=f"dashboard at {address} answers (HTTP {status})")


def _token() -> Finding:
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return Finding(level="ok", what="token authentication is on")
    return Finding(
        level="warn",
        what="no token: whoever reaches the ports of this cluster can run code on it",
        fix="export RAY_AUTH_MODE=token on all nodes; ray get-auth-token --generate",
    )


def _differences(facts: dict[str, NodeFacts]) -> Iterator[Finding]:
    names = list(next(iter(facts.values())).versions) if facts else []
    for name in names:
        found = {node.versions[name] for node in facts.values()}
        if len(found) > 1:
            by_node = ", ".join(
                f"{host} {node.versions[name] or 'without'}" for host, node in facts.items()
            )
            yield Finding(
                level="fail",
                what=f"nodes differ in {name}: {by_node}",
                fix="one image for all nodes, built with constraints.txt",
            )


def _shared(nodes: Sequence[dict[str, Any]], uri: str) -> Iterator[Finding]:
    """Checks that all nodes see a file that the first node writes."""
    if len(nodes) < 2:
        return
    mark, text = storage.join(uri, f"doctor-{uuid.uuid4().hex}.txt"), uuid.uuid4().hex
    try:
        ray.get(_on(nodes[0], write_mark, mark, text), timeout=_NODE_TIMEOUT_S)
        seen = ray.get(
            [_on(node, sees_mark, mark, text) for node in nodes], timeout=_NODE_TIMEOUT_S
        )
        ray.get(_on(nodes[0], storage.delete, mark), timeout=_NODE_TIMEOUT_S)
    except (ray.exceptions.RayError, TimeoutError):
        return  # the node's own check of the storage has said why
    blind = [n["NodeManagerAddress"] for n, ok in zip(nodes, seen, strict=True) if not ok]
    if blind:
        yield Finding(
            level="fail",
            what=f"{uri} is not shared: {', '.join(blind)} do not see what "
            f"{nodes[0]['NodeManagerAddress']} writes",
            fix="--storage s3://..., gs://..., az://..., or a folder mounted on every node",
        )
    else:
        yield Finding(level="ok", what=f"{uri} is shared by all {len(nodes)} nodes")


if __name__ == "__main__":
    main()
