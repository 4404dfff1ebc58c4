"""On SIGTERM at the driver or at a training worker, every worker saves after the same step.

The process that gets the signal notifies the stop coordinator, an actor, which tells all workers.
Without a notice a step costs one look at a variable. On a notice, each worker reports which step it
has begun, and begins no other until all have answered. All save after the highest of these steps.

No signal reaches the stages of a study, which run in other processes. They find the stop
coordinator of the study's driver by its name.
"""

import asyncio
import contextlib
import math
import os
import signal
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lafp.runs.run_dir import StageDir
from lafp.train.notice import Notice

_COORDINATOR = "lafp-stop-coordinator"
"""Name by which the stages of a study find the actor. A Ray job sees only its own actors."""
_MOST_CALLS = 10_000
"""Limit of calls that wait at a coordinator. Each worker has at most two calls there."""
SAME_NOTICE_S = 10
"""If a node is shut down, all of its workers ask for a checkpoint. Requests of a group within this
time count as one."""


class _StopCoordinator:
    """The actor that passes notices to workers, and through which workers agree on a step."""

    def __init__(self) -> None:
        self._is_stopping = False
        self._notices: dict[str, list[Notice]] = {}
        self._saved_at: dict[str, float] = defaultdict(lambda: -math.inf)
        self._answers: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._training: set[str] = set()
        self._changed = asyncio.Condition()

    async def may_begin(self) -> None:
        """Returns at once; after a stop it never returns, so that no stage begins."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_stopping)

    async def begin(self, stage: str) -> None:
        """Notes that a stage trains, so that it has something to save."""
        self._training.add(stage)

    async def end(self, stage: str) -> None:
        """Notes that a stage no longer trains."""
        async with self._changed:
            self._training.discard(stage)
            self._changed.notify_all()

    async def all_ended(self) -> None:
        """Waits until no stage trains."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._training)

    async def stop(self) -> None:
        """Tells all workers to stop, also those that are started later."""
        async with self._changed:
            self._is_stopping = True
            for notices in self._notices.values():
                notices.append(Notice.STOP)
            self._changed.notify_all()

    async def save(self, group: str) -> None:
        """Tells the workers of one group to save a checkpoint and go on."""
        async with self._changed:
            if time.monotonic() - self._saved_at[group] > SAME_NOTICE_S:
                self._saved_at[group] = time.monotonic()
                self._of_group(group).append(Notice.SAVE)
                self._changed.notify_all()

    async def notice(self, group: str, index: int) -> Notice:
        """Waits for the group's notice with this index and returns it."""
        async with self._changed:
            notices = self._of_group(group)
            await self._changed.wait_for(lambda: len(notices) > index)
            return notices[index]

    async def agree(self, group: str, index: int, begun: int, num_workers: int) -> int:
        """Waits for all workers' answers to a notice. Returns the highest step they have begun."""
        answers = self._answers[group, index]
        async with self._changed:
            answers.append(begun)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: len(answers) == num_workers)
        return max(answers)

    def _of_group(self, group: str) -> list[Notice]:
        return self._notices.setdefault(group, [Notice.STOP] if self._is_stopping else [])


@contextlib.contextmanager
def stopped_by_sigterm(stage: StageDir) -> Iterator[Any]:
    """Makes a first SIGTERM in the block stop the workers, and a second one end this process.

    In a stage of a study, the study's driver gets the signal instead.

    Args:
        stage: The stage that trains.

    Yields:
        The stop coordinator, for the ``NoticeListener`` of each worker.
    """
    if shared := _coordinator_of_the_study():
        ray.get(shared.begin.remote(stage.uri))
        try:
            yield shared
        finally:
            ray.get(shared.end.remote(stage.uri))
        return
    coordinator = _start_coordinator(None)

    def stop() -> None:
        sys.stderr.write(f"[{stage.name}] SIGTERM: saving a checkpoint, then stopping\n")
        with contextlib.suppress(ray.exceptions.RayError):  # training has just ended
            ray.get(coordinator.stop.remote())

    restore = on_first_sigterm(stop, signal.getsignal(signal.SIGTERM))
    try:
        yield coordinator
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
        sys.stderr.write("SIGTERM: stages that train save a checkpoint, then all stops\n")
        with contextlib.suppress(ray.exceptions.RayError):  # the last stage has just ended
            ray.get(coordinator.stop.remote())
            ray.get(coordinator.all_ended.remote())
        os.kill(os.getpid(), signal.SIGTERM)

    def end(*_: Any) -> None:
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
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return (
        ray.remote(_StopCoordinator)
        # It takes no CPU, because the workers may hold all of them.
        .options(name=name, num_cpus=0, max_concurrency=_MOST_CALLS, scheduling_strategy=here)
        .remote()
    )


def _coordinator_of_the_study() -> Any:
    try:
        return ray.get_actor(_COORDINATOR)
    except ValueError:  # no study
        return None


def on_first_sigterm(act: Callable[[], None], then: Any) -> Callable[[], None]:
    """Calls ``act`` once, in a thread, at the first SIGTERM; ``then`` handles the next one.

    It must be called in the main thread. ``act`` runs in a thread of its own, because a signal
    handler may interrupt any library at any point.

    Returns:
        A function, also for the main thread, that puts the previous handler back.
    """
    previous = signal.getsignal(signal.SIGTERM)
    is_signalled, is_over = threading.Event(), threading.Event()

    def wait() -> None:
        is_signalled.wait()
        if not is_over.is_set():
            act()

    def handle(*_: Any) -> None:
        signal.signal(signal.SIGTERM, then)
        is_signalled.set()

    def restore() -> None:
        signal.signal(signal.SIGTERM, previous)
        is_over.set()
        is_signalled.set()

    threading.Thread(target=wait, name="on-sigterm", daemon=True).start()
    signal.signal(signal.SIGTERM, handle)
    return restore


def _save_on_sigterm(_: Any, coordinator: Any, group: str) -> None:
    """Asks the coordinator for a checkpoint on SIGTERM. Runs in a training worker's main thread."""

    def save() -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver is gone
            ray.get(coordinator.save.remote(group))

    on_first_sigterm(save, signal.getsignal(signal.SIGTERM))


class NoticeListener:
    """Listens for notices in one training worker. A group's workers act on it after the same step.

    Args:
        coordinator: The actor that ``stopped_by_sigterm`` yields.
        num_workers: Number of workers that train together. All make their listeners together,
            because the constructor is a collective.
    """

    def __init__(self, coordinator: Any, num_workers: int) -> None:
        self._coordinator, self._num_workers = coordinator, num_workers
        self._group = _common_name()
        self._changed = threading.Condition()
        self._begun: int | None = None
        self._is_agreeing = False
        self._due: dict[int, Notice] = {}
        # Training runs in a thread of the actor, and only the main thread may handle signals.
        actor = ray.get_runtime_context().current_actor
        ray.get(actor.__ray_call__.remote(_save_on_sigterm, coordinator, self._group))

    def __call__(self, step: int) -> Notice:
        """Returns the notice to act on after ``step`` steps. Called once between any two steps."""
        with self._changed:
            # Before the first step a worker could not answer which step it has begun.
            if self._begun is None:
                threading.Thread(target=self._listen, name="notices", daemon=True).start()
            self._changed.wait_for(lambda: not self._is_agreeing)
            self._begun = step + 1
            return self._due.pop(step, Notice.NONE)

    def _listen(self) -> None:
        """Handles notices until a stop, or until the coordinator ends.

        The coordinator ends when training is over or the driver is gone.
        """
        with contextlib.suppress(ray.exceptions.RayError):
            for index in count():
                notice = ray.get(self._coordinator.notice.remote(self._group, index))
                with self._agreement() as begun:
                    answer = self._coordinator.agree.remote(
                        self._group, index, begun, self._num_workers
                    )
                    self._due[ray.get(answer)] = notice
                if notice == Notice.STOP:
                    return

    @contextlib.contextmanager
    def _agreement(self) -> Iterator[int]:
        """Yields the step that this worker has begun. The worker begins no other in the block."""
        with self._changed:
            self._is_agreeing = True
            begun = self._begun
            assert begun is not None
        try:
            yield begun
        finally:
            with self._changed:
                self._is_agreeing = False
                self._changed.notify_all()


def _common_name() -> str:
    """Returns a name that is the same on all workers of this start, and differs at other starts."""
    import torch.distributed as dist  # not at the top, so that the coordinator does not load torch

    names = [uuid.uuid4().hex]
    if dist.is_initialized():
        dist.broadcast_object_list(names)
    return names[0]
