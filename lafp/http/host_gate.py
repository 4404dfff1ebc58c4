"""Limits the request rate and the number of connections per host."""

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

# Beyond this many hosts, those without connections and without a queue are dropped.
_MAX_IDLE_HOSTS = 10_000
_POLL_S = 0.2


class Gate(Protocol):
    """Interface of ``HostGate``, which may run in this process or in a Ray actor."""

    def ask(
        self, host: str, requests_per_s: float, max_connections: int, lease_s: float
    ) -> tuple[float, int | None]:
        """See ``HostGate.ask``."""
        ...

    def release(self, host: str, lease: int) -> None:
        """See ``HostGate.release``."""
        ...

    def pause(self, host: str, seconds: float) -> None:
        """See ``HostGate.pause``."""
        ...


@dataclass
class _Host:
    next_s: float = 0.0
    """Monotonic time at which the next request may begin."""
    leases: dict[int, float] = field(default_factory=dict)
    """Open connections, each with the time from which it counts as lost."""


class HostGate:
    """Keeps requests to one host 1/rate apart, and its open connections below a bound.

    Its methods return at once and callers wait themselves, so one gate serves a whole cluster. Any
    thread may call them.
    """

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def ask(
        self, host: str, requests_per_s: float, max_connections: int, lease_s: float
    ) -> tuple[float, int | None]:
        """Asks for a turn.

        Args:
            host: Name of the host.
            requests_per_s: Limit for this host.
            max_connections: Limit of open connections to this host.
            lease_s: Time after which a connection that was not released counts as lost, since its
                process may have died.

        Returns:
            Seconds to wait, and the lease. If the lease is None, wait and ask again.
        """
        with self._lock:
            now_s = time.monotonic()
            state = self._hosts.setdefault(host, _Host())
            state.leases = {k: end_s for k, end_s in state.leases.items() if end_s > now_s}
            if len(state.leases) >= max_connections:
                return _POLL_S, None
            begin_s = max(now_s, state.next_s)
            state.next_s = begin_s + 1 / requests_per_s
            lease = next(self._numbers)
            state.leases[lease] = begin_s + lease_s
            if len(self._hosts) > _MAX_IDLE_HOSTS:
                self._hosts = {k: s for k, s in self._hosts.items() if s.leases or s.next_s > now_s}
            return begin_s - now_s, lease

    def release(self, host: str, lease: int) -> None:
        """Returns a connection."""
        with self._lock:
            if host in self._hosts:
                self._hosts[host].leases.pop(lease, None)

    def pause(self, host: str, seconds: float) -> None:
        """Delays the next request by ``seconds``, because the host asked for it."""
        with self._lock:
            state = self._hosts.setdefault(host, _Host())
            state.next_s = max(state.next_s, time.monotonic() + seconds)


@contextmanager
def turn(
    gate: Gate, host: str, requests_per_s: float, max_connections: int, lease_s: float
) -> Iterator[float]:
    """Waits for a turn and holds it during the block. Yields the seconds that it waited."""
    start_s = time.monotonic()
    while True:
        wait_s, lease = gate.ask(host, requests_per_s, max_connections, lease_s)
        if lease is not None:
            break
        # The random factor keeps callers from asking at the same moment.
        time.sleep(wait_s * random.uniform(0.5, 1.5))
    try:
        time.sleep(wait_s)
        yield time.monotonic() - start_s
    finally:
        gate.release(host, lease)
