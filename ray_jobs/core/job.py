"""Defines jobs and runs them, alike alone, in a pipeline, or under ``ray job submit``."""

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lafp import storage
from lafp.config import ConfigError
from lafp.runs.identity import Change
from lafp.runs.lease import InUseError, delete_abandoned_claim, owned
from lafp.runs.progress import duration
from lafp.runs.run_dir import CONFIG, PROVENANCE, SUMMARY, RunDir, StageDir, StageState
from lafp.runs.wording import printable
from lafp.storage import UnreachableError
from lafp.storage.temporary import delete_abandoned_once
from ray_jobs.core.cluster import Resources, check, connect, expected, is_ray_wanted, ray_job

if TYPE_CHECKING:  # the module loads pandas, which would delay the answer to a usage error
    from lafp.report.markdown import Command

C = TypeVar("C")
LOG = "log.txt"
"""File in the folder of a study's stage that holds the stage's output."""


class JobError(RuntimeError):
    """A job stopped for a reason that it reports itself. The message is for the user."""


class JobStoppedError(JobError):
    """A job has saved and stopped because a SIGTERM asked for it."""


@dataclass(frozen=True, kw_only=True)
class Job(Generic[C]):
    """One stage of the system as a command."""

    name: str
    """Name in the command ``python -m ray_jobs.<name>``."""
    schema: type[C]
    """The dataclass of the job's config."""
    stage: Callable[[C], str] = lambda _: ""
    """Config -> the stage's folder in the run, e.g. ``lam``; empty for the run's own folder."""
    inputs: Callable[[C, RunDir], Mapping[str, str]] = lambda _cfg, _run: {}
    """Config, run -> fingerprints of what the stage reads. Raises ConfigError if one is missing."""
    check: Callable[[C, RunDir], None] = lambda _cfg, _run: None
    """Config, run -> None. Raises ConfigError for errors that can be found before the cluster
    starts."""
    resources: Callable[[C], Resources]
    """Config -> resources that the stage needs from the cluster."""
    can_be_alone: Callable[[C, RunDir], bool] = lambda _cfg, _run: False
    """Config, run -> whether the job can do what is left to do without Ray, where none runs."""
    plan: Callable[[C, RunDir], list[str]]
    """Config, run -> lines for ``--dry-run``. Checks inputs, writes nothing."""
    run: Callable[[C, RunDir, StageDir], dict[str, object]]
    """Config, run, stage -> summary. Does the work, and resumes an earlier attempt."""
    tell: Callable[[C, StageDir, Mapping[str, Any]], list[str]]
    """Config, stage, summary -> sentences about the results and what they mean: see
    ``ray_jobs.core.findings``."""
    next_steps: Callable[[C, RunDir], list[str]]
    """Config, complete run -> what to do next, with commands to copy: see
    ``ray_jobs.core.next_steps``. Only the job of the command line prints it."""
    reads: Callable[[C], Iterable[str]] = lambda _: ()
    """Config -> the stages of the run that the job reads. The run may lack some of them."""
    is_remade: bool = False
    """Whether a stage whose config or inputs changed is made anew. For other jobs such a change is
    an error. It is meant for cheap outputs that no stage reads."""
    parts: Callable[[C, RunDir], Iterable["Part"]] = lambda _cfg, _run: ()
    """Config, run -> the stages that the job computes, if it computes several. The job is complete
    when all of them are."""
    reached: Callable[[StageDir], Mapping[str, object]] | None = None
    """Stage -> how far it is, e.g. ``{"step": 500}``. Only jobs have it that can go on from there
    with another config or other inputs, if the user accepts the change."""
    publish: "Callable[[C, RunDir, str, Command], None] | None" = None
    """Config, complete run, page, command -> None. Writes the results into a Markdown page
    (``--page``)."""


@dataclass(frozen=True)
class Part:
    """One stage of a job that computes several."""

    job: Job
    config: object
    run: RunDir


def execute(job: Job[C], cfg: C, run: RunDir, patience_s: float = 0.0) -> dict[str, Any]:
    """Runs one job to completion, or finds it complete. Returns its summary.

    Args:
        job: The job to run.
        cfg: The job's config.
        run: The run that the stage belongs to.
        patience_s: Seconds to wait for another process that works in the folder.

    Raises:
        ConfigError: The user must correct something. The folder is as it was before.
        JobError: The job stopped, or another process works in the folder.
    """
    stage = run.stage(job.stage(cfg))
    label = stage.name or job.name
    inputs = dict(job.inputs(cfg, run))
    state = state_of(job, cfg, run, inputs)
    changes = accepted_changes(job, cfg, run, inputs)
    if state == "complete" and not changes:
        delete_abandoned_claim(stage.uri)
        return _found_complete(stage, label)
    job.check(cfg, run)
    # Checked before the claim, which may wait for half a minute to see whether another owner lives.
    with _owned(stage.uri, label, patience_s):
        state = state_of(job, cfg, run, inputs)  # another job may have changed it in the meantime
        reached = dict(job.reached(stage)) if job.reached and changes else {}
        _tell(label, changes, reached)
        if state == "complete":
            if changes:
                stage.record(cfg, inputs, changes, reached)
            return _found_complete(stage, label)
        # A job that needs no CPU of the cluster, such as report, does not start Ray.
        resources = job.resources(cfg)
        if resources.num_cpus and (is_ray_wanted() or not job.can_be_alone(cfg, run)):
            connect(resources)
        print(f"{label}: {'starting' if state == 'new' else 'resuming'}", flush=True)
        start = time.monotonic()
        with expected(resources), _ended_by_sigterm(), _as_it_was_if_refused(job, stage):
            stage.begin(cfg, inputs, changes, reached)
            summary = dict(job.run(cfg, run, stage))
            summary["wall_s"] = wall_s = round(time.monotonic() - start, 1)
        stage.finish(summary)
    print(f"{label}: done in {duration(wall_s)}. Outputs: {stage.uri}", flush=True)
    for line in job.tell(cfg, stage, summary):
        print(f"  {printable(line)}", flush=True)
    return summary


def dry_run(job: Job[C], cfg: C, run: RunDir) -> list[str]:
    """Returns lines for ``--dry-run``: what exists, what would be done, and what that needs.

    It writes nothing.

    Raises:
        ConfigError: ``execute`` would raise it before it starts the work.
    """
    stage = run.stage(job.stage(cfg))
    resources = check(job.resources(cfg), job.can_be_alone(cfg, run))
    job.check(cfg, run)
    state = state_of(job, cfg, run)
    found = {
        "new": "nothing is there yet, it would start",
        "partial": "begun, it would go on",
        "complete": "complete, nothing to do",
    }
    lines = [f"{stage.name or job.name}: {found[state]} ({stage.uri})"]
    if run.accept_changes and stage.is_begun():
        changes = accepted_changes(job, cfg, run, job.inputs(cfg, run))
        lines += [f"  accepted: {change}" for change in changes]
    return [*lines, *job.plan(cfg, run), *resources]


def state_of(
    job: Job[C], cfg: C, run: RunDir, inputs: Mapping[str, str] | None = None
) -> StageState:
    """Returns ``StageDir.state``, but "new" for a changed stage of a job with ``is_remade``.

    Raises:
        ConfigError: See ``StageDir.state``; or an input is missing.
    """
    stage = run.stage(job.stage(cfg))
    if not stage.is_begun():
        return "new"
    inputs = dict(job.inputs(cfg, run)) if inputs is None else inputs
    accept_changes = run.accept_changes and job.reached is not None
    try:
        state = stage.state(cfg, inputs, accept_changes)
    except ConfigError as error:
        if job.is_remade:
            return "new"
        if job.reached is None:
            raise
        raise ConfigError(
            f"{error} Or add --accept-changes: then the job goes on from where it is with what "
            f"changed, and {stage.path('provenance.json')} records it."
        ) from None
    if state == "complete" and not all(map(_is_complete, job.parts(cfg, run))):
        return "partial"
    return state


def _is_complete(part: Part) -> bool:
    try:
        return state_of(part.job, part.config, part.run) == "complete"
    except ConfigError:  # the part raises the error itself when it runs
        return False


def can_all_be_alone(parts: Iterable[Part]) -> bool:
    """Says whether all stages that are not complete can do without Ray."""
    return all(part.job.can_be_alone(part.config, part.run) or _is_complete(part) for part in parts)


def _found_complete(stage: StageDir, label: str) -> dict[str, Any]:
    # Scratch folders of a machine that was lost as the stage ended: nothing else is run here that
    # would delete them.
    delete_abandoned_once(tempfile.gettempdir())
    print(f"{label}: complete, nothing to do ({stage.uri})", flush=True)
    return stage.summary()


def accepted_changes(job: Job[C], cfg: C, run: RunDir, inputs: Mapping[str, str]) -> list[Change]:
    """Lists changes since the stage in the folder was begun, if the user accepts changes."""
    stage = run.stage(job.stage(cfg))
    if not run.accept_changes or job.reached is None or not stage.is_begun():
        return []
    return stage.changes(cfg, inputs)


def _tell(label: str, changes: Sequence[Change], reached: Mapping[str, object]) -> None:
    where = ", ".join(f"{name} {value}" for name, value in reached.items())
    for change in changes:
        print(f"{label}: from {where} on, {change.field} is {change.now!r} ({change})", flush=True)


@contextmanager
def _owned(folder: str, label: str, patience_s: float) -> Iterator[None]:
    """Makes sure that no other job works in the folder within the block.

    Raises:
        JobError: Another job works there.
        ConfigError: The folder cannot be written to.
    """
    try:
        with ExitStack() as stack:
            _claim(stack, folder, label, patience_s)
            yield
    except InUseError as error:
        raise JobError(f"{error} Or use another --run-name.") from None


def _claim(stack: ExitStack, folder: str, label: str, patience_s: float) -> None:
    def say(line: str) -> None:
        print(f"{label}: {printable(line)}", flush=True)

    try:
        stack.enter_context(owned(folder, ray_job(), say, patience_s))
    except UnreachableError:  # storage may answer later, so the user can run the command again
        raise
    except OSError as error:
        raise ConfigError(
            f"--storage: {error}. Name a folder or an s3://, gs:// or az:// URI that you may write "
            "to; python -m ray_jobs.doctor --storage URI checks it."
        ) from None


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Ends the process in order at SIGTERM: the folder is given back, temporary files are deleted.

    Ray does so itself.
    """
    if is_ray_wanted():
        yield
        return
    text = "Stopped by SIGTERM. Run the same command again to resume."
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(text))  # the exit code is 1
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _as_it_was_if_refused(job: Job, stage: StageDir) -> Iterator[None]:
    """Restores the records of a stage if a ConfigError ends the block before any work is done."""
    reached = job.reached or (lambda _: {})
    names = (CONFIG, PROVENANCE, SUMMARY)
    before = {name: storage.read_version(stage.path(name)) for name in names}
    was_begun, was_reached = stage.is_begun(), dict(reached(stage))
    try:
        yield
    except ConfigError:
        # Records stay once there are outputs or steps, because they say how these were made.
        is_untouched = was_begun or not _has_outputs(stage, names)
        if is_untouched and dict(reached(stage)) == was_reached:
            for name, found in before.items():
                if found is None:
                    storage.delete(stage.path(name))
                else:
                    storage.write_bytes(stage.path(name), found[0])
        raise


def _has_outputs(stage: StageDir, records: Sequence[str]) -> bool:
    paths = {stage.path(name) for name in (*records, LOG)}
    return any(info.uri not in paths for info in storage.list_files(stage.uri))
