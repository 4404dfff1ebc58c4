"""Shares one gate of the download hosts among all tasks of a cluster."""

from typing import Any

from lafp.http.host_gate import Gate, HostGate

_ACTOR = "lafp-host-gate"
_keep_alive: list[Any] = []


def start_cluster_gate() -> None:
    """Starts the actor that limits the request rate per host over the whole cluster."""
    import ray

    # The actor only counts, so it takes no CPU from decoding. It may restart on another node
    # without harm: it forgets the pace of hosts, not work.
    actor = ray.remote(HostGate).options(
        name=_ACTOR, get_if_exists=True, num_cpus=0, max_restarts=-1, max_task_retries=-1
    )
    # Ray stops an actor when the handle that made it is gone. The handle of a second job of this
    # process is one to the same actor and does not keep it, so the first one must stay.
    _keep_alive.append(actor.remote())


class ClusterGate(Gate):
    """Forwards calls to the ``HostGate`` actor of ``start_cluster_gate``."""

    def ask(
        self, host: str, requests_per_s: float, max_connections: int, lease_s: float
    ) -> tuple[float, int | None]:
        """Calls ``HostGate.ask``."""
        wait_s, lease = _call("ask", host, requests_per_s, max_connections, lease_s)
        return wait_s, lease

    def release(self, host: str, lease: int) -> None:
        """Calls ``HostGate.release``."""
        _call("release", host, lease)

    def pause(self, host: str, seconds: float) -> None:
        """Calls ``HostGate.pause``."""
        _call("pause", host, seconds)


def _call(method: str, *args: object) -> Any:
    import ray  # not at the top: a job that downloads nothing may run without Ray

    return ray.get(getattr(ray.get_actor(_ACTOR), method).remote(*args))
