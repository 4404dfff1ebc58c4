"""Joining a Ray cluster, or starting one on this machine, with enough of what a job needs."""

import logging
import os
from dataclasses import dataclass

import ray

from lafp.config import ConfigError

# Ray gives its own processes 30 s to start, which a busy machine may exceed.
_NUM_STARTS = 5


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Logical resources that a job holds at the same time. Without them Ray waits for ever."""

    num_cpus: float = 1
    num_gpus: float = 0

    def __mul__(self, num: int) -> "Demand":
        """What ``num`` of them need at the same time."""
        return Demand(num_cpus=num * self.num_cpus, num_gpus=num * self.num_gpus)

    def __or__(self, other: "Demand") -> "Demand":
        """What either of two jobs needs, when they run one after the other."""
        return Demand(
            num_cpus=max(self.num_cpus, other.num_cpus), num_gpus=max(self.num_gpus, other.num_gpus)
        )


def connect(demand: Demand) -> None:
    """Joins the cluster that ``RAY_ADDRESS`` names, else starts a local one. Idempotent.

    A local cluster gets as many logical CPUs as the job needs, if those are more than the cores:
    workers then share cores, which is slow but works.

    Raises:
        ConfigError: The cluster is too small.
    """
    if not ray.is_initialized():
        _start(demand)
    total = ray.cluster_resources()
    _check_enough(demand, total.get("CPU", 0), total.get("GPU", 0))


def num_that_fit(each: Demand, most: int) -> int:
    """How many such demands the cluster holds at the same time: 1 to ``most``. Needs Ray.

    Raises:
        ConfigError: Not even one.
    """
    total = ray.cluster_resources()
    _check_enough(each, total.get("CPU", 0), total.get("GPU", 0))
    fits = [most]
    for name, wanted in (("CPU", each.num_cpus), ("GPU", each.num_gpus)):
        if wanted:
            fits.append(int(total.get(name, 0) / wanted + 1e-9))
    return min(fits)


def check(demand: Demand) -> list[str]:
    """Lines for ``--dry-run``: what is needed. Starts nothing."""
    where = os.environ.get("RAY_ADDRESS")
    cluster = f"the cluster at {where}" if where else "a local Ray that the job starts"
    return [f"resources: {demand.num_cpus:g} CPUs, {demand.num_gpus:g} GPUs on {cluster}"]


def _start(demand: Demand) -> None:
    # It only says that tokens are on; so they shall be.
    tokens = logging.getLogger("ray._private.authentication.authentication_token_setup")
    tokens.setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    num_cpus = max(os.cpu_count() or 1, -(-demand.num_cpus // 1))
    for attempt in range(1, _NUM_STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=int(num_cpus),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
            return
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == _NUM_STARTS:
                raise
            ray.shutdown()


def _check_enough(demand: Demand, num_cpus: float, num_gpus: float) -> None:
    if demand.num_cpus > num_cpus or demand.num_gpus > num_gpus:
        raise ConfigError(
            f"The job needs {demand.num_cpus:g} CPUs and {demand.num_gpus:g} GPUs at the same "
            f"time, the cluster has {num_cpus:g} and {num_gpus:g}. Lower num_workers, add nodes, "
            "or start Ray with more logical CPUs (`ray start --num-cpus`)."
        )
