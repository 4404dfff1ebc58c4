"""Decides which failures of a training worker end a run at once, because a retry would fail too."""

import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

import torch.distributed as dist

from lafp import storage
from lafp.config import ConfigError
from lafp.storage import StorageError, strict_json
from lafp.storage.local import full_disk
from lafp.train.checkpoints import DamagedCheckpointsError
from lafp.train.metrics.log import read_starts

T = TypeVar("T")
FAILURES = "failures.jsonl"
_MISTAKES = (
    *(AssertionError, AttributeError, ImportError, IndexError, KeyError, ModuleNotFoundError),
    *(NameError, NotImplementedError, TypeError, ValueError, ZeroDivisionError),
)
"""Errors that mean a mistake in the code. Subclasses do not count, because broken connections raise
some of them."""


class LostWorkerError(RuntimeError):
    """The process of a worker has ended without saying why."""


class WorkersFailedError(RuntimeError):
    """Workers failed more than ``max_failures`` times. The message holds their tracebacks."""


class FinalError(RuntimeError):
    """No retry can succeed. The message is for the user."""


class FinalConfigError(FinalError):
    """The user must correct something, e.g. the config."""


def final(error: Exception) -> FinalError | None:
    """Returns the error to raise instead of ``error`` if no retry can succeed; else None.

    It must be called in the worker itself, because an error loses its causes on the way to another
    process.
    """
    for cause in _causes(error):
        if isinstance(cause, ConfigError):
            return FinalConfigError(str(cause))
        if isinstance(cause, DamagedCheckpointsError):
            return FinalError(str(cause))
    if full_disk(error):
        return FinalError(f"{error}\nRun the same command again to resume.")
    if type(error) in _MISTAKES:
        return FinalError("".join(traceback.format_exception(error)))
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """Lists an error and all its causes, including those that Ray has wrapped."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        found = waiting.pop()
        # Each error once, because errors may name each other as their causes.
        if isinstance(found, BaseException) and not any(found is one for one in seen):
            seen.append(found)
            waiting += [found.__cause__, found.__context__, getattr(found, "cause", None)]
    return seen


class FailureLog:
    """Records why workers failed, and ends a run that cannot succeed.

    Args:
        stage_uri: The stage's folder.
    """

    def __init__(self, stage_uri: str) -> None:
        self._stage_uri = stage_uri
        self._lines = ""
        self._seen: set[tuple[float, str]] = set()

    def note(self, failures: Mapping[int, Exception]) -> None:
        """Records why workers failed, by their rank.

        Raises:
            FinalError: A worker says that no retry can succeed, or a worker failed twice in the
                same way without a checkpoint in between.
        """
        errors = {rank: _of_worker(failure) for rank, failure in failures.items()}
        for rank, error in errors.items():
            self._lines += strict_json.dumps({"rank": rank, "error": _first_line(error)}) + "\n"
        with suppress(StorageError):  # storage may be the reason why the worker failed
            storage.write_text(storage.join(self._stage_uri, FAILURES), self._lines)
        for error in errors.values():
            if isinstance(error, FinalError):
                raise error
        if not any(_is_of_others(error) for error in errors.values()):
            self._check_is_new(failures, errors)

    def _check_is_new(
        self, failures: Mapping[int, Exception], errors: Mapping[int, BaseException]
    ) -> None:
        """Raises FinalError if a worker has failed in the same way since the last checkpoint."""
        starts: list[dict[str, Any]] = []
        with suppress(StorageError):
            starts = read_starts(self._stage_uri)
        step = starts[-1]["step"] if starts else -1
        for rank, error in errors.items():
            failure = (step, f"{type(error).__name__}: {_first_line(error)}")
            if failure in self._seen:
                raise FinalError(
                    f"Worker {rank} failed twice in the same way, without a checkpoint between:\n"
                    f"{failures[rank]}"  # with the traceback, which the error itself has lost
                )
        self._seen |= {(step, f"{type(e).__name__}: {_first_line(e)}") for e in errors.values()}


def with_restarts(
    uri: str,
    max_failures: int,
    attempt: Callable[[], T],
    kinds: tuple[type[Exception], ...],
    is_hopeless: Callable[[], object] = lambda: False,
) -> T:
    """Lets the only worker of a training start again when it fails.

    Args:
        uri: The stage's folder.
        max_failures: See ``TrainConfig``.
        attempt: Runs the worker to its end.
        kinds: Errors of a worker that has failed.
        is_hopeless: Says after a failure whether nothing can run any more.

    Raises:
        FinalError: No retry can succeed.
        WorkersFailedError: The worker failed more than ``max_failures`` times.
    """
    log = FailureLog(uri)
    for num_failures in count(1):
        try:
            return attempt()
        except kinds as error:
            log.note({0: error})
            if num_failures > max_failures:
                raise WorkersFailedError(str(error)) from error  # the text holds the traceback
            if is_hopeless():
                raise
    raise AssertionError("unreachable")


def _of_worker(failure: Exception) -> BaseException:
    """Returns the error that the worker raised, which Ray wraps together with a traceback."""
    # The first name is that of Ray Train, the second that of a task's or a process's error.
    return getattr(failure, "_base_exc", None) or getattr(failure, "cause", None) or failure


def _is_of_others(error: BaseException) -> bool:
    """Says whether storage, a node or the network caused it, so that a retry may not meet it."""
    kinds: tuple[type[BaseException], ...] = (OSError, LostWorkerError, dist.DistBackendError)
    if ray := sys.modules.get("ray"):  # a training without Ray does not import it
        kinds = (*kinds, ray.exceptions.RayError)
    return isinstance(error, kinds)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]
