"""What every job is, and how it runs: alike alone, in a pipeline, or under ``ray job submit``."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lafp import storage
from lafp.config import ConfigError
from lafp.eval.results_page import Command
from lafp.progress import duration
from lafp.run_dir import RunDir, StageDir, StageState
from lafp.storage import UnreachableError
from ray_jobs.cluster import Demand, connect


class JobError(RuntimeError):
    """A job stopped on its own account. The message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of the system as a command."""

    name: str
    """``python -m ray_jobs.<name>``."""
    schema: type
    """Its config dataclass."""
    stage: Callable[[Any], str] = lambda _: ""
    """Config -> folder of the run, e.g. ``lam``; empty for the run itself."""
    inputs: Callable[[Any, RunDir], Mapping[str, str]] = lambda _cfg, _run: {}
    """Config, run -> fingerprints of what the stage reads. Raises ConfigError if one is missing."""
    check: Callable[[Any, RunDir], None] = lambda _cfg, _run: None
    """Config, run -> raises ConfigError for what is known to be wrong before the cluster starts."""
    demand: Callable[[Any], Demand]
    """Config -> what the stage needs of the cluster."""
    plan: Callable[[Any, RunDir], list[str]]
    """Config, run -> lines for ``--dry-run``. Checks inputs, writes nothing."""
    run: Callable[[Any, RunDir, StageDir], dict[str, Any]]
    """Does the work; resumes what it finds. Returns the summary."""
    tell: Callable[[Any, StageDir, Mapping[str, Any]], list[str]]
    """Config, stage, summary -> what came of it and what that means, in sentences: see
    ``ray_jobs.findings``."""
    next_steps: Callable[[Any, RunDir], list[str]]
    """Config, complete run -> what to do next, with commands to copy: see ``ray_jobs.next_steps``.
    Said once, for the job of the command line."""
    reads: Callable[[Any], Iterable[str]] = lambda _: ()
    """Config -> the stages of the run that it reads, as far as the run has them."""
    is_remade: bool = False
    """Made anew when config or inputs changed, where that is an error for other stages: for cheap
    outputs that no stage reads."""
    publish: Callable[[Any, RunDir, str, Command], None] | None = None
    """Config, complete run, page, command: writes the results into a Markdown page (``--page``)."""


def execute(job: Job, cfg: Any, run: RunDir) -> dict[str, Any]:
    """Runs one job to completion, or finds it complete. Returns its summary."""
    stage = run.stage(job.stage(cfg))
    label = stage.name or job.name
    inputs = dict(job.inputs(cfg, run))
    state = state_of(job, stage, cfg, inputs)
    if state == "complete":
        print(f"{label}: complete, nothing to do ({stage.uri})", flush=True)
        return stage.summary()
    job.check(cfg, run)
    _check_writable(run.uri)
    if (demand := job.demand(cfg)).num_cpus:
        connect(demand)
    print(f"{label}: {'starting' if state == 'new' else 'resuming'}", flush=True)
    stage.begin(cfg, inputs)
    start = time.monotonic()
    summary = job.run(cfg, run, stage) | {"wall_s": round(time.monotonic() - start, 1)}
    stage.finish(summary)
    print(f"{label}: done in {duration(summary['wall_s'])}. Outputs: {stage.uri}", flush=True)
    for line in job.tell(cfg, stage, summary):
        print(f"  {line}", flush=True)
    return summary


def _check_writable(uri: str) -> None:
    mark = storage.join(uri, f".{uuid.uuid4().hex}")
    try:
        storage.write_text(mark, "")
        storage.delete(mark)
    except UnreachableError:  # later it may answer
        raise
    except OSError as error:
        raise ConfigError(
            f"--storage: {error}. Name a folder or an s3:// URI that you may write to; "
            "python -m ray_jobs.doctor --storage URI checks it."
        ) from None


def state_of(job: Job, stage: StageDir, cfg: Any, inputs: dict[str, str]) -> StageState:
    """``StageDir.state``, where a changed stage of a job that is made anew counts as new."""
    try:
        return stage.state(cfg, inputs)
    except ConfigError:
        if not job.is_remade:
            raise
        return "new"
