"""Launches the only worker of a training as a child process, without Ray.

A command on one machine whose worker reads the shards itself needs nothing of Ray, whose start and
end take four seconds. So such a training also runs where Ray is not installed.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch

from lafp.config import ConfigError
from lafp.runs.run_dir import StageDir
from lafp.storage import strict_json
from lafp.storage.temporary import TemporaryFolder, delete_abandoned
from lafp.train.config import TrainConfig
from lafp.train.task import Task
from ray_jobs.core.cluster import use_huge_pages
from ray_jobs.training.failures import FinalError, LostWorkerError, with_restarts
from ray_jobs.training.first_sigterm import on_first_sigterm
from ray_jobs.training.notices import sigterm_noted
from ray_jobs.training.resources import worker_cpus
from ray_jobs.training.worker import Place, WorkerJob, as_a_worker, train_in_worker

_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from ray_jobs.training import alone
alone.run_worker(int(sys.argv[1]))
"""
_STOP = "stop"
_END_S = 5.0
"""Time that a worker has to end after its answer."""
_POLL_S = 1.0
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
    try:
        kinds = (LostWorkerError, RaisedInWorkerError)
        return with_restarts(stage.uri, cfg.max_failures, worker.run, kinds)
    finally:
        restore()


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
                task = ForkingPickler.dumps(self._build_task)
                connection.send((self._cfg, bytes(task), self._stage.uri))
                self._talk_to(connection)
                outcome, error, text = _answer(connection, process)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)
            except (EOFError, ConnectionError):
                raise LostWorkerError(_how_it_ended(process.wait(), log)) from None
            finally:
                self._talk_to(None)
                # At Ctrl-C, when the folder has no owner any more; and all that it has started.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                connection.close()
                # A worker that was killed has not deleted its temporary folders.
                delete_abandoned(tempfile.gettempdir())
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
    command = [sys.executable, "-X", "faulthandler", "-c", _PROGRAM]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, str(number), strict_json.dumps(sys.path)],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches all processes of a terminal's session. The driver ends this one.
            start_new_session=True,
        )


def _answer(connection: Connection, process: "subprocess.Popen[bytes]") -> Any:
    """Waits for the worker's answer.

    Raises:
        EOFError: The worker has died. The connection alone would not tell if a process that it has
            started still lives.
    """
    while not connection.poll(_POLL_S):
        if process.poll() is not None and not connection.poll():
            raise EOFError
    return connection.recv()


def _how_it_ended(exit_code: int, log: Path) -> str:
    how = f"exit code {exit_code}"
    if exit_code < 0:
        how = f"signal {-exit_code} ({signal.strsignal(-exit_code)})"
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([f"The training process ended with {how}.", *lines[-_LAST_LINES:]])


def run_worker(number: int) -> None:
    """Runs in the worker's process.

    Args:
        number: File descriptor of the connection to the driver.
    """
    connection = Connection(number)
    cfg, pickled_task, uri = connection.recv()
    is_stop_asked = threading.Event()
    listener = threading.Thread(target=_listen, args=(connection, is_stop_asked), daemon=True)
    listener.start()
    device = torch.device("cuda", 0) if cfg.use_gpu else torch.device("cpu")
    answer: tuple[dict[str, Any] | None, Exception | None, str]
    try:
        try:
            build_task = ForkingPickler.loads(pickled_task)
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            raise FinalError(f"The worker cannot import the task:\n{text}") from error
        job = WorkerJob(cfg, build_task, uri, is_stop_asked.is_set)
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
