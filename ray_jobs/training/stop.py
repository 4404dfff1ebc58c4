"""Lets a driver that gets SIGTERM stop its training workers after they have saved.

The driver asks the workers through an actor, the stop coordinator, because no signal reaches
processes on other nodes, nor the stages of a study. The stages find the coordinator of the study's
driver by its name. ``notices`` is the side of the workers.
"""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lafp.runs.run_dir import StageDir
from ray_jobs.training.first_sigterm import on_first_sigterm

_COORDINATOR = "lafp-stop-coordinator"
"""Name by which the stages of a study find the actor. A Ray job sees only its own actors."""
_MOST_CALLS = 20_000
"""Limit of calls that wait at a coordinator: two for each start of a training stage."""
_POLL_S = 0.2


class _StopCoordinator:
    """The actor through which a driver asks its training workers to stop."""

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._training: set[asyncio.Task[None]] = set()
        self._ends: dict[str, asyncio.Event] = {}

    async def stop(self) -> None:
        """Asks all workers to stop, and waits until no stage of a study trains any more."""
        self._stop.set()
        while self._training:
            await asyncio.sleep(_POLL_S)

    async def stop_requested(self) -> None:
        """Waits until the workers are to stop."""
        await self._stop.wait()

    async def may_begin(self) -> None:
        """Returns at once; after a stop it never returns, so that no stage begins."""
        if self._stop.is_set():
            await asyncio.Event().wait()

    async def until_end(self, training: str) -> None:
        """Returns after ``end`` was called for this training of a stage."""
        await self._ends.setdefault(training, asyncio.Event()).wait()
        del self._ends[training]

    async def begin(self, until_end: "list[ray.ObjectRef]") -> None:
        """Notes that a stage of a study trains, so that it has something to save.

        Args:
            until_end: What ``until_end`` returned to the stage's process, in a list, because Ray
                would wait for a bare reference. Ray gives it an error if that process dies, so
                ``stop`` does not wait for a stage that can no longer end.
        """
        training = asyncio.create_task(_wait_for(*until_end))
        self._training.add(training)
        training.add_done_callback(self._training.discard)

    async def end(self, training: str) -> None:
        """Notes that a stage no longer trains."""
        self._ends.setdefault(training, asyncio.Event()).set()


class StopAskedOfActor:
    """Says whether the driver asks for a stop, which a worker hears from the stop coordinator.

    Args:
        coordinator: The actor.
    """

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self._call: ray.ObjectRef | None = None
        self._is_gone = False

    def __call__(self) -> bool:
        """Does not wait."""
        if self._is_gone:
            return False
        if self._call is None:  # it returns when the driver asks for a stop
            self._call = self._coordinator.stop_requested.remote()
        if not ray.wait([self._call], timeout=0)[0]:
            return False
        try:
            ray.get(self._call)
        except ray.exceptions.RayError:  # the coordinator has died
            self._is_gone = True
        return not self._is_gone


async def _wait_for(call: "ray.ObjectRef") -> None:
    with contextlib.suppress(ray.exceptions.RayError):  # the process that made the call has died
        await call


@contextlib.contextmanager
def stopped_by_sigterm(stage: StageDir) -> Iterator[StopAskedOfActor]:
    """Makes a first SIGTERM in the block stop the workers, and a second one end this process.

    In a stage of a study, the study's driver gets the signal instead.

    Args:
        stage: The stage that trains.

    Yields:
        What the ``Notices`` of each worker ask.
    """
    if shared := _coordinator_of_the_study():
        training = f"{stage.name} {uuid.uuid4().hex}"
        ray.get(shared.begin.remote([shared.until_end.remote(training)]))
        try:
            yield StopAskedOfActor(shared)
        finally:
            ray.get(shared.end.remote(training))
        return
    coordinator = _start_coordinator(None)

    def stop() -> None:
        sys.stderr.write(f"[{stage.name}] SIGTERM: saving a checkpoint, then stopping\n")
        with contextlib.suppress(ray.exceptions.RayError):  # training has just ended
            ray.get(coordinator.stop.remote())

    restore = on_first_sigterm(stop, signal.getsignal(signal.SIGTERM))
    try:
        yield StopAskedOfActor(coordinator)
    finally:
        restore()
        ray.kill(coordinator)


@contextlib.contextmanager
def stages_stopped_by_sigterm() -> Iterator[None]:
    """Makes a first SIGTERM in the block stop all stages with a checkpoint, then end this process.

    No stage begins after the signal. A second SIGTERM ends the process at once.

    Raises:
        SystemExit: A SIGTERM came. The code is 1.
    """
    coordinator = _start_coordinator(_COORDINATOR)

    def stop() -> None:
        sys.stderr.write("SIGTERM: stages that train save a checkpoint, then the job stops\n")
        with contextlib.suppress(ray.exceptions.RayError):  # the last stage has just ended
            ray.get(coordinator.stop.remote())
        # This thread cannot end the process cleanly. The next SIGTERM runs ``end`` in the main one.
        os.kill(os.getpid(), signal.SIGTERM)

    def end(*_: object) -> None:
        # A message of SystemExit would be lost if the main thread is in a call of Ray, which then
        # exits with its own text.
        sys.stderr.write("Stopped by SIGTERM. Run the same command again to go on.\n")
        # A stage that waits at the coordinator fails when it ends; Ray must not show that error.
        os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"
        sys.exit(1)

    restore = on_first_sigterm(stop, end)
    try:
        yield
    finally:
        restore()
        ray.kill(coordinator)


def wait_while_stopping() -> None:
    """Keeps a stage from beginning while its study's driver is about to end."""
    if coordinator := _coordinator_of_the_study():
        ray.get(coordinator.may_begin.remote())


def _start_coordinator(name: str | None) -> Any:
    # The coordinator must live as long as the driver. Ray may ignore a soft affinity, and the node
    # of a worker may be lost while the job goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return (
        ray.remote(_StopCoordinator)
        # The coordinator takes no CPU, because the workers may hold all of them.
        .options(name=name, num_cpus=0, max_concurrency=_MOST_CALLS, scheduling_strategy=here)
        .remote()
    )


def _coordinator_of_the_study() -> Any:
    try:
        return ray.get_actor(_COORDINATOR)
    except ValueError:  # no study
        return None
