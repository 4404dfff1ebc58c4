"""Runs stages as Ray tasks, each after those that it reads, several at the same time."""

import contextlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import ray

from lafp import storage
from lafp.config import ConfigError
from lafp.runs.run_dir import RunDir
from lafp.runs.wording import printable
from lafp.storage.temporary import TemporaryFolder
from ray_jobs.core.job import LOG, Job, JobError, execute
from ray_jobs.studies.stage_graph import StageNode, run_dir
from ray_jobs.training.stop import wait_while_stopping

_POLL_S = 2.0
# Time to wait for an earlier process of the same stage, which Ray is ending.
_PATIENCE_S = 120.0


class StageWatcher(Protocol):
    """Gets a call when something happens to a stage."""

    def started(self, node: StageNode) -> None:
        """Is called when a stage starts."""

    def ended(self, node: StageNode, error: str | None) -> None:
        """Is called when a stage has ended; ``error`` says why it failed."""

    def look(self) -> None:
        """Is called every few seconds while stages run."""


def run_stages(
    nodes: Iterable[StageNode], study: RunDir, max_concurrent: int, watcher: StageWatcher
) -> dict[str, str]:
    """Computes stages. A stage that fails stops only the stages that read it.

    Args:
        nodes: The stages. The stages that they read are complete or also among the nodes.
        study: The study's folder.
        max_concurrent: Largest number of stages at a time. Stages start in the order of ``nodes``
            as soon as they can.
        watcher: Gets a call when a stage starts or ends.

    Returns:
        Key -> error, for the stages that failed.
    """
    waiting = {node.key: node for node in nodes}
    unfinished = set(waiting)
    running: dict[ray.ObjectRef, StageNode] = {}
    errors: dict[str, str] = {}
    while True:
        ready = [node for node in waiting.values() if not unfinished.intersection(node.reads)]
        for node in ready[: max_concurrent - len(running)]:
            del waiting[node.key]
            watcher.started(node)
            running[_start(node, study)] = node
        if not running:  # the waiting stages read a stage that failed
            return errors
        ended, _ = ray.wait(list(running), timeout=_POLL_S)
        for ref in ended:
            node = running.pop(ref)
            if error := _error_of(ref):
                errors[node.key] = error
            else:
                unfinished.remove(node.key)
            watcher.ended(node, error)
        watcher.look()


def _start(node: StageNode, study: RunDir) -> "ray.ObjectRef":
    # The stage's own tasks and workers hold its CPUs; this task only waits for them. A trial of
    # Tune starts its tasks in its own placement group unless the strategy is named.
    task = ray.remote(_run_stage).options(num_cpus=0, name=str(node), scheduling_strategy="DEFAULT")
    return task.remote(node.job, node.config, run_dir(study, node.run).uri)


def _error_of(ref: "ray.ObjectRef") -> str | None:
    """Waits for a stage. Returns why it failed, or None."""
    try:
        outcome: str | None = ray.get(ref)
    except ray.exceptions.RayError as error:
        return (str(error).strip() or repr(error)).splitlines()[-1]
    return outcome


def _run_stage(job: Job, config: object, run_uri: str) -> str | None:
    """Runs a stage's own job on a Ray worker, and prints into the stage's ``log.txt``.

    Returns:
        An error for the user, or None. It is not raised, because Ray would wrap it.
    """
    wait_while_stopping()
    run = RunDir(run_uri)
    with storage.patient(), _printing_to(run.stage(job.stage(config)).path(LOG)):
        try:
            # An earlier process of this stage may still own the folder while Ray is ending it.
            execute(job, config, run, patience_s=_PATIENCE_S)
        except (ConfigError, JobError, OSError) as error:
            print(f"Error: {printable(str(error))}", flush=True)
            return str(error) or repr(error)
        except Exception:
            traceback.print_exc()  # the driver shows its last line only
            raise
    return None


@contextlib.contextmanager
def _printing_to(uri: str) -> Iterator[None]:
    """Appends output to a file. A local file is written at once, a file on S3 at the end."""
    with contextlib.ExitStack() as stack:
        path = Path(uri)
        if storage.is_remote(uri):
            path = Path(stack.enter_context(TemporaryFolder())) / LOG
            if storage.is_file(uri):
                path.write_bytes(storage.read_bytes(uri))
            stack.callback(_store_log, path, uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context(path.open("a", buffering=1))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        yield


def _store_log(path: Path, uri: str) -> None:
    try:
        storage.write_bytes(uri, path.read_bytes())
    except storage.StorageError as error:  # what the stage made is complete without it
        print(f"Cannot store {uri}: {error}", file=sys.stderr)
