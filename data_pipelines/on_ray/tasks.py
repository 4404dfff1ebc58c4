"""Runs many independent calls as Ray tasks, as many at a time as the cluster has room for.

A process that has joined no Ray does the calls itself, one after the other (``run_tasks``).
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from data_pipelines.on_ray.joined import is_on_ray
from lafp.config import ConfigError
from lafp.config.node_labels import label_selector
from lafp.runs.progress import Progress

if TYPE_CHECKING:
    import ray

Key = TypeVar("Key")
Result = TypeVar("Result")

# Twice the cluster's CPUs, so that no core waits and an autoscaler sees waiting tasks.
_CALLS_PER_CPU = 2
# A cluster that starts without workers grows only if calls wait.
_MIN_CALLS = 8
_RECOUNT_S = 10.0
# A call may lose its worker or node through no fault of its own, but not this often.
_MAX_LOST_WORKERS = 20
_NUM_CANCELS, _CANCEL_S = 3, 2.0


def stream_tasks(
    function: Callable[..., Result],
    calls: Iterable[tuple[Key, tuple[object, ...]]],
    *,
    num_gpus: float = 0,
    memory_bytes: int | None = None,
    node_labels: tuple[str, ...] = (),
) -> Generator[tuple[Key, Result]]:
    """Runs ``function(*call)`` for every call, one logical CPU each.

    It takes a call from the iterable when there is room for it. So there may be any number of
    calls, and the driver holds at most twice as many as the cluster has CPUs.

    Args:
        function: Importable on the workers.
        calls: Pairs of a key that identifies the call and its arguments. It is asked again after
            each result, also after it has ended: a result may lead to more calls.
        num_gpus: GPUs of each task.
        memory_bytes: Logical memory that Ray reserves for each task.
        node_labels: Labels of the nodes that may run the tasks, ``key=value`` each.

    Yields:
        Key and result of each call, in the order of completion.

    Raises:
        ConfigError: A call found something that the user must correct.
        ray.exceptions.RayError: A call failed. Calls that lost their worker or node are retried.
            The other calls are cancelled, also if the caller closes the generator.
    """
    import ray  # not at the top of the file: where no Ray runs, it may not be installed

    task = ray.remote(function).options(
        num_cpus=1,
        num_gpus=num_gpus,
        memory=memory_bytes,
        max_retries=_MAX_LOST_WORKERS,
        label_selector=label_selector(node_labels) or None,
    )
    pending: dict[ray.ObjectRef[Result], Key] = {}
    remaining, counted_at, room = iter(calls), float("-inf"), 0
    try:
        while True:
            if time.monotonic() - counted_at > _RECOUNT_S:
                counted_at = time.monotonic()
                # Counted again and again, because a cluster may grow and shrink meanwhile.
                num_cpus = int(ray.cluster_resources().get("CPU", 0))
                room = max(_MIN_CALLS, _CALLS_PER_CPU * num_cpus)
            while len(pending) < room and (found := next(remaining, None)) is not None:
                key, call = found
                pending[task.remote(*call)] = key
            if not pending:
                return
            # The time limit lets the loop count CPUs again, also if no task ends for long.
            done, _ = ray.wait(list(pending), num_returns=1, timeout=_RECOUNT_S)
            for ref in done:
                yield pending.pop(ref), _result(ref)
    finally:
        # A call has failed, or the caller has left. In a study this process lives on, and calls
        # that nobody waits for would hold the cluster's CPUs.
        if ray.is_initialized():
            _cancel(list(pending))


def _result(ref: "ray.ObjectRef[Result]") -> Result:
    """Returns the result of a call that is done, or raises its error."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # Ray's error is one of these too, but its text is the traceback in the worker.
        if isinstance(error.cause, ConfigError):
            raise ConfigError(str(error.cause)) from None
        raise


def _cancel(refs: "list[ray.ObjectRef[Any]]") -> None:
    """Cancels calls. A call that begins at that moment may not notice, so it is told again."""
    import ray

    for _ in range(_NUM_CANCELS):
        if not refs:
            return
        for ref in refs:
            ray.cancel(ref)
        # Results that are there already are not fetched: nobody wants them.
        _, refs = ray.wait(refs, num_returns=len(refs), timeout=_CANCEL_S, fetch_local=False)


def run_tasks(
    function: Callable[..., Result],
    calls: Sequence[tuple[object, ...]],
    *,
    sizes: Sequence[int],
    title: str,
    unit: str,
    num_done: int = 0,
    num_gpus: float = 0,
) -> Iterator[tuple[int, Result]]:
    """Runs a known list of calls with ``stream_tasks`` and shows a progress line.

    Without Ray, the calls are done one after the other in this thread. No others would do: calls
    seed torch's random numbers, which all threads of a process share.

    Args:
        function: Importable on the workers.
        calls: Arguments of each call.
        sizes: Units of work in each call, for the progress line.
        title: Name of the work in the progress line.
        unit: Plural name of the units in ``sizes``.
        num_done: Units that an earlier run finished.
        num_gpus: GPUs of each task. Without Ray, a call sees all GPUs of the machine.

    Yields:
        Index of the call and its result, in the order of completion.
    """
    with Progress(title, num_done + sum(sizes), unit) as progress:
        progress.found(num_done)
        if is_on_ray():
            done = stream_tasks(function, enumerate(calls), num_gpus=num_gpus)
        else:
            done = ((index, function(*call)) for index, call in enumerate(calls))
        for index, result in done:
            yield index, result
            num_done += sizes[index]
            progress.update(num_done)


def run_each(
    function: Callable[..., Result],
    calls: Sequence[tuple[object, ...]],
    *,
    title: str,
    unit: str,
    num_gpus: float = 0,
) -> list[Result]:
    """Runs calls of one unit each with ``run_tasks``. Returns the results in the calls' order."""
    sizes = [1] * len(calls)
    done = run_tasks(function, calls, sizes=sizes, title=title, unit=unit, num_gpus=num_gpus)
    results = dict(done)
    return [results[index] for index in range(len(calls))]
