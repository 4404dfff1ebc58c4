"""Launches the only worker of a training as a child process, without Ray.

A command on one machine whose worker reads the shards itself needs nothing of Ray, whose start and
end take four seconds. So such a training also runs where Ray is not installed.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch

from lafp.config import ConfigError
from lafp.runs.run_dir import StageDir
from lafp.storage.temporary import TemporaryFolder
from lafp.train.config import TrainConfig
from lafp.train.task import Task
from ray_jobs.core.cluster import use_huge_pages
from ray_jobs.training.failures import FailureLog, LostWorkerError, WorkersFailedError
from ray_jobs.training.first_sigterm import on_first_sigterm
from ray_jobs.training.notices import sigterm_noted
from ray_jobs.training.resources import worker_cpus
from ray_jobs.training.worker import Place, WorkerJob, as_a_worker, train_in_worker

_PROGRAM = "import sys; from ray_jobs.training import alone; alone.run_worker(int(sys.argv[1]))"
_STOP = "stop"
_END_S = 5.0
"""Time that a worker has to end after its answer."""
_LAST_LINES = 20
"""Number of lines of its output that are shown of a worker that has died."""


class RaisedInWorkerError(RuntimeError):
    """A worker has raised ``cause``. The text is its traceback."""

    def __init__(self, text: str, cause: Exception) -> None:
        super().__init__(text)
        self.cause = cause


def train_alone(
    stage: StageDir, cfg: TrainConfig, build_task: Callable[[], Task]
) -> dict[str, Any]:
    """Trains on one worker, which starts again when it fails.

    A first SIGTERM makes it save and stop, a second one ends this process.

    Returns:
        See ``train_in_worker``.

    Raises:
        ConfigError: The training needs a GPU, and there is none.
        FinalError: No retry can succeed.
        WorkersFailedError: The worker failed more than ``max_failures`` times.
    """
    if cfg.use_gpu and not torch.cuda.device_count():
        raise ConfigError(
            "train.use_gpu is true, but this machine has no GPU. Set train.use_gpu=false."
        )
    use_huge_pages()
    worker = _Worker(stage, cfg, build_task)
    restore = on_first_sigterm(worker.stop, signal.getsignal(signal.SIGTERM))
    log = FailureLog(stage.uri)
    try:
        for num_failures in count(1):
            try:
                return worker.run()
            except (LostWorkerError, RaisedInWorkerError) as error:
                log.note({0: error})
                if num_failures > cfg.max_failures:
                    raise WorkersFailedError(str(error)) from error  # the text has the traceback
    finally:
        restore()
    raise AssertionError("unreachable")


class _Worker:
    """Starts the worker's process, and talks to it."""

    def __init__(self, stage: StageDir, cfg: TrainConfig, build_task: Callable[[], Task]) -> None:
        self._stage, self._cfg, self._build_task = stage, cfg, build_task
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._is_stopping = False

    def run(self) -> dict[str, Any]:
        """Starts a process, and waits for its end."""
        connection, of_worker = Pipe()
        with TemporaryFolder(ignore_cleanup_errors=True) as folder:
            log = Path(folder, "worker.log")
            process = _start(of_worker, log)
            of_worker.close()  # so that reading ends when the worker's copy is closed
            try:
                connection.send((self._cfg, self._build_task, self._stage.uri))
                self._talk_to(connection)
                outcome, error, text = connection.recv()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)
            except (EOFError, ConnectionError):
                raise LostWorkerError(_how_it_ended(process.wait(), log)) from None
            finally:
                self._talk_to(None)
                process.kill()  # at Ctrl-C, when the folder has no owner any more
                process.wait()
                connection.close()
        if error is not None:
            raise RaisedInWorkerError(text, error)
        result: dict[str, Any] = outcome
        return result

    def stop(self) -> None:
        """Asks the worker to save and stop."""
        sys.stderr.write(f"[{self._stage.name}] SIGTERM: saving a checkpoint, then stopping\n")
        with self._lock:
            self._is_stopping = True
            self._tell()

    def _talk_to(self, connection: Connection | None) -> None:
        with self._lock:
            self._connection = connection
            if self._is_stopping:
                self._tell()

    def _tell(self) -> None:
        if self._connection is not None:
            with suppress(OSError):  # the worker has just ended
                self._connection.send(_STOP)


def _start(of_worker: Connection, log: Path) -> "subprocess.Popen[bytes]":
    """Starts the worker's process, whose output goes to a file.

    It is a new interpreter, because a fork would copy locks that other threads hold, and it does
    not import the program that has started the training.
    """
    number = of_worker.fileno()
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(number)],
            pass_fds=[number],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches all processes of a terminal's session. The driver ends this one.
            start_new_session=True,
        )


def _how_it_ended(exit_code: int, log: Path) -> str:
    how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([f"The training process ended with {how}.", *lines[-_LAST_LINES:]])


def run_worker(number: int) -> None:
    """Runs in the worker's process.

    Args:
        number: File descriptor of the connection to the driver.
    """
    connection = Connection(number)
    cfg, build_task, uri = connection.recv()
    is_stop_asked = threading.Event()
    listener = threading.Thread(target=_listen, args=(connection, is_stop_asked), daemon=True)
    listener.start()
    job = WorkerJob(cfg, build_task, uri, is_stop_asked.is_set)
    device = torch.device("cuda", 0) if cfg.use_gpu else torch.device("cpu")
    answer: tuple[dict[str, Any] | None, Exception | None, str]
    try:
        with sigterm_noted(), as_a_worker(worker_cpus(cfg)):
            place = Place(rank=0, world_size=1, local_rank=0, device=device)
            answer = train_in_worker(job, place), None, ""
    except Exception as error:
        answer = None, _sendable(error), "".join(traceback.format_exception(error))
    connection.send(answer)


def _listen(connection: Connection, is_stop_asked: threading.Event) -> None:
    """Hears what the driver says, and ends this process when the driver has died."""
    try:
        while connection.recv() == _STOP:
            is_stop_asked.set()
    except (EOFError, OSError):
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """Returns the error, or its text if it cannot be sent to another process."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
