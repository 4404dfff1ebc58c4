"""Joins a Ray cluster or starts one on this machine, and checks that it is large enough."""

import atexit
import contextlib
import functools
import json
import logging
import os
import re
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from data_pipelines.on_ray.joined import is_on_ray
from lafp import machine
from lafp.config import ConfigError
from lafp.storage.temporary import delete_abandoned

# Ray gives its own processes 30 s to start, which a busy machine may exceed.
_NUM_STARTS = 5
_KNOCK_S = 5.0
# The first bytes of every HTTP/2 client, so also of gRPC, and the type of frame that answers them.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = b"\x04"
_ADDRESS_WANTED = (
    "Set it to HOST:PORT of a running head, as `ray start --head` prints it (port 6379), to `auto` "
    "on a node of the cluster, or unset it: then the job starts a Ray of its own if it needs one."
)

_OWN_RAY = "LAFP_OWN_RAY"


class RayLostError(RuntimeError):
    """The job's own Ray did not start, or has died. The message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Logical resources that a job holds at the same time. Without them Ray waits forever."""

    num_cpus: float = 1
    num_gpus: float = 0

    def __mul__(self, num: int) -> "Resources":
        """Returns the resources that ``num`` such jobs need at the same time."""
        return Resources(num_cpus=num * self.num_cpus, num_gpus=num * self.num_gpus)

    def __or__(self, other: "Resources") -> "Resources":
        """Returns resources that are enough for two jobs that run one after the other."""
        return Resources(
            num_cpus=max(self.num_cpus, other.num_cpus), num_gpus=max(self.num_gpus, other.num_gpus)
        )


_expected = Resources()


@contextlib.contextmanager
def expected(resources: Resources) -> Iterator[None]:
    """Lets a Ray that is started in the block be large enough for a whole job.

    A stage may start it that needs less, and it serves the stages that follow.
    """
    global _expected
    before, _expected = _expected, _expected | resources
    try:
        yield
    finally:
        _expected = before


def connect(resources: Resources) -> None:
    """Joins the cluster that ``RAY_ADDRESS`` names, else starts a local one. Idempotent.

    A local cluster gets as many logical CPUs as the job needs, even if these are more than the
    CPUs that this process may use. Workers then share these, which is slow but works.

    Raises:
        ConfigError: Ray is not installed, the cluster is too small, or ``RAY_ADDRESS`` names none.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            "this job needs Ray, which is not installed. Install it with: pip install 'lafp[train]'"
        )
    import ray  # not at the top of the file, so that usage errors are answered fast

    if not ray.is_initialized():
        _start(resources | _expected)
    total = ray.cluster_resources()
    _check_enough(resources, total.get("CPU", 0), total.get("GPU", 0))


def num_that_fit(each: Resources, most: int) -> int:
    """Returns how many jobs with such needs fit on the cluster at the same time, at most ``most``.

    Needs Ray to be initialized.

    Raises:
        ConfigError: Not even one fits.
    """
    import ray

    total = ray.cluster_resources()
    _check_enough(each, total.get("CPU", 0), total.get("GPU", 0))
    fits = [most]
    for name, wanted in (("CPU", each.num_cpus), ("GPU", each.num_gpus)):
        if wanted:
            # The small number absorbs rounding: 0.3 / 0.1 must be 3.
            fits.append(int(total.get(name, 0) / wanted + 1e-9))
    return min(fits)


def check(resources: Resources, can_be_alone: bool) -> list[str]:
    """Returns lines for ``--dry-run``: the needed resources. Starts nothing.

    Args:
        resources: What the job needs.
        can_be_alone: See ``Job``.
    """
    where = cluster_address()
    cluster = f"the cluster at {where}" if where else "a local Ray that the job starts"
    if can_be_alone and not is_ray_wanted():
        cluster = "this machine, without Ray"
    return [f"resources: {resources.num_cpus:g} CPUs, {resources.num_gpus:g} GPUs on {cluster}"]


def cluster_address() -> str | None:
    """Returns ``RAY_ADDRESS``: ``auto`` or ``host:port``; None if a local Ray is to be started.

    Raises:
        ConfigError: The variable holds something else.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address in ("", "local"):
        return None
    if address == "auto" or re.fullmatch(r"([^\s:/]+|\[[0-9a-fA-F:]+\]):\d{1,5}", address):
        return address
    hint = ""
    if address.startswith(("http://", "https://")):
        hint = " That is the address of a dashboard, which `ray job submit --address` takes."
    elif address.startswith("ray://"):
        hint = " Ray Client (ray://) cannot train; use `ray job submit` from outside of a cluster."
    raise ConfigError(f"RAY_ADDRESS={address!r} names no cluster.{hint} {_ADDRESS_WANTED}")


def is_ray_wanted() -> bool:
    """Returns whether this process belongs to a Ray already, or ``RAY_ADDRESS`` asks for one.

    ``RAY_ADDRESS=local`` asks for a Ray of this machine, also of jobs that can do without.
    """
    return bool(os.environ.get("RAY_ADDRESS", "").strip()) or is_on_ray()


def is_own_ray() -> bool:
    """Returns whether this process belongs to a Ray on one machine that its job has started."""
    return _OWN_RAY in os.environ  # inherited by all processes of that Ray


def what_was_lost(error: Exception) -> str | None:
    """Returns text that names the Ray process whose death caused the error; None if none died."""
    if (ray := sys.modules.get("ray")) is None:
        return None
    if dead := dead_ray_processes():  # later errors follow from it
        return f"Ray's {' and '.join(dead)} died while the job ran, perhaps because memory ran out"
    errors = ray.exceptions
    # The task itself raised a RayTaskError, so its traceback is needed.
    if not isinstance(error, errors.RayError) or isinstance(error, errors.RayTaskError):
        return None
    lines = (str(error).strip() or repr(error)).splitlines()
    # The second line names the class of an actor.
    said = " ".join(line.strip().rstrip(".") for line in lines[:2])
    return f"Ray lost a process of the job: {said}"


def dead_ray_processes() -> list[str]:
    """Returns the names of those processes of the job's own Ray that have died, such as raylet.

    Empty in other processes than the one that has started that Ray.
    """
    if not is_own_ray():
        return []
    from ray._private import worker

    node = worker._global_node
    # One second, because a process that is just dying takes its sockets with it first.
    deadline = time.monotonic() + 1.0
    while node is not None and time.monotonic() < deadline:
        if dead := [str(name) for name, _ in node.dead_processes()]:
            return dead
        time.sleep(0.1)
    return []


def ray_job() -> str | None:
    """Returns the name of this process's Ray job; None before it has joined a cluster."""
    submitted = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if submitted and (name := json.loads(submitted).get("metadata", {}).get("job_submission_id")):
        return str(name)
    if not is_on_ray():
        return None
    import ray

    return str(ray.get_runtime_context().get_job_id())


def _start(resources: Resources) -> None:
    # This logger only says that token authentication is on, which is intended.
    tokens = logging.getLogger("ray._private.authentication.authentication_token_setup")
    tokens.setLevel(logging.ERROR)
    os.environ.pop(_OWN_RAY, None)  # of an earlier Ray of this process or its parent
    if address := cluster_address():
        _join(address)
        return
    os.environ[_OWN_RAY] = "1"
    use_huge_pages()
    # At least as many logical CPUs as the job holds, because Ray would wait forever for the others.
    num_cpus = max(machine.num_cpus(), -(-resources.num_cpus // 1))
    for attempt in range(1, _NUM_STARTS + 1):
        try:
            start_local(int(num_cpus))
            atexit.register(_end_own_ray)
            return
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            _end_half_started(error)
            if attempt == _NUM_STARTS:
                raise RayLostError(
                    f"Ray did not start within 30 s, in {_NUM_STARTS} attempts: the machine is too "
                    "busy. Run the same command again when it has less to do."
                ) from None


def start_local(num_cpus: int) -> None:
    """Starts a Ray of this machine alone.

    Args:
        num_cpus: Its number of logical CPUs.
    """
    import ray
    from ray._private import ray_constants
    from ray.experimental import internal_kv

    with _few_processes():
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    # The dashboard's server would have stored its address. Ray Train looks it up at its end, and
    # waits for it for 12 s. With ``include_dashboard=False`` nothing listens there either.
    internal_kv._internal_kv_put(
        ray_constants.DASHBOARD_ADDRESS,
        "127.0.0.1:1",
        namespace=ray_constants.KV_NAMESPACE_DASHBOARD,
    )


@contextlib.contextmanager
def _few_processes() -> Iterator[None]:
    """Starts Ray without three processes that a Ray of one machine does not need.

    ``ray.init`` has no argument for them:

    - the autoscaler's monitor: no node can be added, and it delays Ray's end by 1 s,
    - the log monitor: it only sends logs to drivers, and ``log_to_driver`` is False,
    - the dashboard's server: with ``include_dashboard=False`` it only counts usage, and it delays
      Ray's start by 0.7 s.

    Nor has it one for the port of Ray's agent. All Rays of a machine want the same one, and each
    but the first would try for 3 s to get it before it starts.
    """
    from ray._private import parameter, services

    of_node: Any = parameter
    of_services: Any = services
    params, start_server = of_node.RayParams, of_services.start_api_server
    of_node.RayParams = functools.partial(
        params, dashboard_agent_listen_port=0, no_monitor=True, include_log_monitor=False
    )
    # No address and no process is what it returns where the server cannot start.
    of_services.start_api_server = lambda *_, **__: ("", None)
    try:
        yield
    finally:
        of_node.RayParams, of_services.start_api_server = params, start_server


def use_huge_pages() -> None:
    """Asks torch for huge pages in processes that start from now on, unless the user has decided.

    The C library gives the memory of each large tensor back to the system. So a training step on
    the CPU writes to new pages again and again, and the system has to find and clear each. With
    pages of 2 MiB a step takes a tenth less time (``bench_lam_step``).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _end_half_started(error: Exception) -> None:
    """Ends the processes of a Ray that did not come up.

    Otherwise they would take the next attempt's share of a busy machine. ``ray.shutdown`` does not
    know of them, only the node whose constructor raised ``error`` does.
    """
    from ray._private.node import Node

    for frame, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(node := frame.f_locals.get("self"), Node):
            node.kill_all_processes(check_alive=False, wait=True)


def _end_own_ray() -> None:
    """Ends Ray at the exit, and deletes the temporary folders of its workers.

    Ray kills its workers, so they cannot delete them themselves.
    """
    import ray

    ray.shutdown()
    delete_abandoned(tempfile.gettempdir())


def _join(address: str) -> None:
    """Joins a cluster. It fails fast, where Ray would wait minutes for a wrong address."""
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address)
        if found is not None:
            _knock(found)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        # For example, Ray's versions or tokens differ, no Ray runs there, or the host is unknown.
        first_line = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"RAY_ADDRESS={address!r}: no cluster could be joined: {first_line}. {_ADDRESS_WANTED}"
        ) from None


def _knock(address: str) -> None:
    """Raises OSError unless a gRPC server, like the head of a cluster, answers at the address."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S) as connection:
        # A head with TLS answers no plain bytes.
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return
        connection.settimeout(_KNOCK_S)
        connection.sendall(_HTTP2_PREFACE)
        answer = connection.recv(9)
    if answer[3:4] != _HTTP2_SETTINGS:
        raise OSError("something else than a Ray head answers there.")


# Ray itself would wait without an error for CPUs that no node will ever have.
def _check_enough(resources: Resources, num_cpus: float, num_gpus: float) -> None:
    if resources.num_cpus > num_cpus or resources.num_gpus > num_gpus:
        raise ConfigError(
            f"The job needs {resources.num_cpus:g} CPUs and {resources.num_gpus:g} GPUs at the "
            f"same time, the cluster has {num_cpus:g} and {num_gpus:g}. Lower num_workers, add "
            "nodes, or start Ray with more logical CPUs (`ray start --num-cpus`)."
        )
