"""SIGTERM, at the driver or at a training worker: every worker saves after one and the same step.

The process that gets the signal notifies the stop coordinator, an actor, which tells all workers.
Without a notice a step costs one look at a variable. When one comes, each worker says which step it
has begun and begins no other until all have answered; the highest is the step after which all save.

The stages of a study are processes that no signal reaches. They find the stop coordinator of the
study's driver by its name.
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
"""The actor's name where stages look for it. A Ray job sees its own actors only."""
_MOST_CALLS = 10_000
"""Each worker has two calls open at a coordinator. No other calls wait there."""
SAME_NOTICE_S = 10
"""All workers of a node hear that it goes; one checkpoint will do."""


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
        """Lets a stage begin. Never, once there is a stop."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._is_stopping)

    async def begin(self, stage: str) -> None:
        """A stage's training has something to save."""
        self._training.add(stage)

    async def end(self, stage: str) -> None:
        """It has no more."""
        async with self._changed:
            self._training.discard(stage)
            self._changed.notify_all()

    async def all_ended(self) -> None:
        """Waits until no stage trains."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._training)

    async def stop(self) -> None:
        """For the workers of today, and for all that may be started after them."""
        async with self._changed:
            self._is_stopping = True
            for notices in self._notices.values():
                notices.append(Notice.STOP)
            self._changed.notify_all()

    async def save(self, group: str) -> None:
        """For the workers of one group."""
        async with self._changed:
            if time.monotonic() - self._saved_at[group] > SAME_NOTICE_S:
                self._saved_at[group] = time.monotonic()
                self._of_group(group).append(Notice.SAVE)
                self._changed.notify_all()

    async def notice(self, group: str, index: int) -> Notice:
        """Waits until the group has that many notices."""
        async with self._changed:
            notices = self._of_group(group)
            await self._changed.wait_for(lambda: len(notices) > index)
            return notices[index]

    async def agree(self, group: str, index: int, begun: int, num_workers: int) -> int:
        """Waits for all workers' answers to a notice: the highest step that one has begun."""
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
    """Within the block a first SIGTERM stops the workers, and a second one ends this process.

    In a stage of a study it is the study's process that gets it.

    Args:
        stage: What is trained.

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
    """Within the block a first SIGTERM has all stages that train save, then ends this process.

    No stage begins after it. A second one ends the process at once.

    Raises:
        SystemExit: It came. The code is 1.
    """
    coordinator = _start_coordinator(_COORDINATOR)

    def stop() -> None:
        sys.stderr.write("SIGTERM: stages that train save a checkpoint, then all stops\n")
        with contextlib.suppress(ray.exceptions.RayError):  # the last stage has just ended
            ray.get(coordinator.stop.remote())
            ray.get(coordinator.all_ended.remote())
        os.kill(os.getpid(), signal.SIGTERM)

    def end(*_: Any) -> None:
        # Written here: where the main thread is in a call of Ray, Ray exits with a text of its own.
        sys.stderr.write("Stopped by SIGTERM. Run the same command again to go on.\n")
        # A stage that waits at the coordinator ends with it, and Ray would show its error.
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

    Call it in the main thread. A handler may interrupt any library anywhere, hence the thread.

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
    """Runs in the main thread of a training worker."""

    def save() -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver is gone
            ray.get(coordinator.save.remote(group))

    on_first_sigterm(save, signal.getsignal(signal.SIGTERM))


class NoticeListener:
    """Listens for notices in one training worker. All workers of a group get one after one step.

    Args:
        coordinator: The actor that ``stopped_by_sigterm`` yields.
        num_workers: Workers that train together. All make their listeners at the same time.
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
        """What is due after ``step`` steps. Called once between any two steps."""
        with self._changed:
            if self._begun is None:
                threading.Thread(target=self._listen, name="notices", daemon=True).start()
            self._changed.wait_for(lambda: not self._is_agreeing)
            self._begun = step + 1
            return self._due.pop(step, Notice.NONE)

    def _listen(self) -> None:
        """Ends with a stop, or with the coordinator: then training is over, or its driver gone."""
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
        """Within the block this worker begins no step beyond the one that is yielded."""
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
    """A name that all workers of this start have in common, and those of no other start."""
    import torch.distributed as dist  # not for the coordinator: its process would load torch

    names = [uuid.uuid4().hex]
    if dist.is_initialized():
        dist.broadcast_object_list(names)
    return names[0]
