"""SIGTERM, at the driver or at a training worker: every worker saves after one and the same step.

Without a notice a step costs one look at a variable. When one comes, each worker says which step it
has begun and begins no other until all have answered; the highest is the step after which all save.
"""

import asyncio
import contextlib
import math
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

from lafp.train.notice import Notice

SAME_NOTICE_S = 10
"""All workers of a node hear that it goes; one checkpoint will do."""


class _Board:
    """The actor where notices are put up, and where workers agree on a step."""

    def __init__(self) -> None:
        self._is_stopping = False
        self._notices: dict[str, list[Notice]] = {}
        self._saved_at: dict[str, float] = defaultdict(lambda: -math.inf)
        self._answers: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._changed = asyncio.Condition()

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
def stopped_by_sigterm(name: str, num_workers: int) -> Iterator[Any]:
    """Within the block a first SIGTERM stops the workers, and a second one ends this process.

    Args:
        name: Of the stage, for the terminal.
        num_workers: Workers that train together.

    Yields:
        The board, for the ``NoticeListener`` of each worker.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board: Any = (
        ray.remote(_Board)
        .options(num_cpus=0, max_concurrency=2 * num_workers + 8, scheduling_strategy=here)
        .remote()
    )

    def stop() -> None:
        sys.stderr.write(f"[{name}] SIGTERM: saving a checkpoint, then stopping\n")
        with contextlib.suppress(ray.exceptions.RayError):  # training has just ended
            ray.get(board.stop.remote())

    restore = on_first_sigterm(stop)
    try:
        yield board
    finally:
        restore()
        ray.kill(board)


def on_first_sigterm(act: Callable[[], None]) -> Callable[[], None]:
    """Calls ``act`` once, in a thread, at the first SIGTERM; the next one does what it did before.

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
        signal.signal(signal.SIGTERM, previous)
        is_signalled.set()

    def restore() -> None:
        signal.signal(signal.SIGTERM, previous)
        is_over.set()
        is_signalled.set()

    threading.Thread(target=wait, name="on-sigterm", daemon=True).start()
    signal.signal(signal.SIGTERM, handle)
    return restore


def _save_on_sigterm(_: Any, board: Any, group: str) -> None:
    """Runs in the main thread of a training worker."""

    def save() -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # the driver is gone
            ray.get(board.save.remote(group))

    on_first_sigterm(save)


class NoticeListener:
    """One training worker's ear. All workers of a group get a notice after the same step.

    Args:
        board: What ``stopped_by_sigterm`` yields.
        num_workers: Workers that train together. All make their listeners at the same time.
    """

    def __init__(self, board: Any, num_workers: int) -> None:
        self._board, self._num_workers = board, num_workers
        self._group = _common_name()
        self._changed = threading.Condition()
        self._begun: int | None = None
        self._is_agreeing = False
        self._due: dict[int, Notice] = {}
        # Training runs in a thread of the actor, and only the main thread may handle signals.
        actor = ray.get_runtime_context().current_actor
        ray.get(actor.__ray_call__.remote(_save_on_sigterm, board, self._group))

    def __call__(self, step: int) -> Notice:
        """What is due after ``step`` steps. Called once between any two steps."""
        with self._changed:
            if self._begun is None:
                threading.Thread(target=self._listen, name="notices", daemon=True).start()
            self._changed.wait_for(lambda: not self._is_agreeing)
            self._begun = step + 1
            return self._due.pop(step, Notice.NONE)

    def _listen(self) -> None:
        """Ends with a stop, or with the board: then training is over, or its driver gone."""
        with contextlib.suppress(ray.exceptions.RayError):
            for index in count():
                notice = ray.get(self._board.notice.remote(self._group, index))
                with self._agreement() as begun:
                    answer = self._board.agree.remote(self._group, index, begun, self._num_workers)
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
    import torch.distributed as dist  # not for the board: its process would load torch

    names = [uuid.uuid4().hex]
    if dist.is_initialized():
        dist.broadcast_object_list(names)
    return names[0]
