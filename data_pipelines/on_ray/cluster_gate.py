"""The gate of the hosts that are downloaded from, one for all tasks of a cluster."""

from typing import Any

import ray

from lafp.http.host_gate import Gate, HostGate

_ACTOR = "lafp-host-gate"
_keep_alive: list[Any] = []


def start_cluster_gate() -> None:
    """Starts what bounds the rate per host over the whole cluster, for this driver's tasks."""
    actor = ray.remote(HostGate).options(
        name=_ACTOR, get_if_exists=True, num_cpus=0, max_restarts=-1, max_task_retries=-1
    )
    _keep_alive[:] = [actor.remote()]  # it lives as long as its handle


class ClusterGate(Gate):
    """``HostGate`` in the process that ``start_cluster_gate`` started, found when it is needed."""

    def ask(
        self, host: str, requests_per_s: float, max_connections: int, lease_s: float
    ) -> tuple[float, int | None]:
        """See ``HostGate.ask``."""
        asked = _actor().ask.remote(host, requests_per_s, max_connections, lease_s)
        wait_s, lease = ray.get(asked)
        return wait_s, lease

    def release(self, host: str, lease: int) -> None:
        """See ``HostGate.release``."""
        ray.get(_actor().release.remote(host, lease))

    def pause(self, host: str, seconds: float) -> None:
        """See ``HostGate.pause``."""
        ray.get(_actor().pause.remote(host, seconds))


def _actor() -> Any:
    return ray.get_actor(_ACTOR)
