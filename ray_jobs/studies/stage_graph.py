"""The stages of many runs, each computed once: what two runs would do alike, they share.

A stage is known by all that decides what it makes: its name, its config without the fields marked
``may_change()``, and the stages that it reads. Its folder is ``<study>/stages/<name>/<key>``. So
another config is another folder, and a finished stage
serves every run that wants exactly it, now or when the study is run again with more axes or seeds.
"""

import contextlib
import importlib
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from lafp import storage
from lafp.config import ConfigError
from lafp.runs.progress import duration
from lafp.runs.run_dir import (
    SHARED_STAGES,
    SUMMARY,
    RunDir,
    StageDir,
    StageState,
    fingerprint,
    recipe_of,
)
from lafp.storage import strict_json
from ray_jobs.core.job import LOG, Job, JobError, Part, execute, state_of
from ray_jobs.core.watchdog import Watchdog
from ray_jobs.training.stop import wait_while_stopping

_TOLD_EVERY_S = 20.0
_PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class StageNode:
    """One stage to compute, for one run or several."""

    name: str
    key: str
    job: Job
    config: Any
    reads: tuple[str, ...]
    """Keys of the stages before it."""
    run: str
    """The first run that wants it; there it finds the stages before it."""

    def __str__(self) -> str:
        return f"{self.name} of {self.run}"


@dataclass(frozen=True, kw_only=True)
class StageGraph:
    """What a study computes."""

    nodes: Mapping[str, StageNode]
    """By key, each after those that it reads."""
    runs: Mapping[str, Mapping[str, str]]
    """Run -> stage -> key."""

    def folders(self, run: str) -> dict[str, str]:
        """Stage -> folder below the study's, for what the run may share."""
        nodes = (self.nodes[key] for key in self.runs[run].values())
        return {n.name: f"stages/{n.name}/{n.key}" for n in nodes if not n.job.is_remade}

    def run_dir(self, study: RunDir, run: str) -> RunDir:
        """The folder of one run, which knows where its stages lie before that is written down."""
        return RunDir(run_dir(study, run).uri, shared=self.folders(run))

    def parts(self, study: RunDir) -> list[Part]:
        """The stages that its runs want, as a job that computes them all has them."""
        wanted = {key: run for run, keys in self.runs.items() for key in keys.values()}
        return [
            Part(self.nodes[key].job, self.nodes[key].config, self.run_dir(study, run))
            for key, run in wanted.items()
        ]

    def states(self, study: RunDir) -> dict[str, StageState]:
        """Key -> how far the stage is. Those that read an unfinished one cannot have begun."""
        found: dict[str, StageState] = {}
        for key, node in self.nodes.items():
            if all(found[read] == "complete" for read in node.reads):
                found[key] = state_of(node.job, node.config, self.run_dir(study, node.run))
            else:
                found[key] = "new"
        return found

    def shared(self) -> "StageGraph":
        """The part that more than one run wants, closed under what its stages read."""
        wanted = Counter(key for keys in self.runs.values() for key in keys.values())
        return StageGraph(
            nodes={key: node for key, node in self.nodes.items() if wanted[key] > 1},
            runs={
                run: {name: key for name, key in keys.items() if wanted[key] > 1}
                for run, keys in self.runs.items()
            },
        )

    def is_complete(self, run: str, failed: Mapping[str, str]) -> bool:
        """Whether no stage of the run failed."""
        return not any(key in failed for key in self.runs[run].values())


def share_stages(runs: Mapping[str, Sequence[tuple[Job, Any]]]) -> StageGraph:
    """Finds what is alike.

    Args:
        runs: Name -> jobs with their configs, in order.
    """
    nodes: dict[str, StageNode] = {}
    keys_of: dict[str, dict[str, str]] = {}
    for run, steps in runs.items():
        keys = keys_of[run] = {}
        for job, config in steps:
            name = job.stage(config)
            if job.is_remade:  # it writes into the run itself, about all of it
                reads, identity = dict(keys), [run, recipe_of(config)]
            else:
                reads = {stage: keys[stage] for stage in job.reads(config) if stage in keys}
                identity = [recipe_of(config)]
            keys[name] = fingerprint([name, *identity, reads])
            if keys[name] not in nodes:
                nodes[keys[name]] = StageNode(
                    name=name,
                    key=keys[name],
                    job=job,
                    config=config,
                    reads=tuple(reads.values()),
                    run=run,
                )
    return StageGraph(nodes=nodes, runs=keys_of)


def run_dir(study: RunDir, name: str) -> RunDir:
    """The folder of one run of a study."""
    return RunDir(storage.join(study.uri, "runs", name))


def run_stages(
    graph: StageGraph, study: RunDir, max_concurrent: int, watchdog: Watchdog | None = None
) -> dict[str, str]:
    """Computes every stage that is not complete, as Ray tasks that start the stage's own job.

    A stage that fails stops those that read it, no others. What it prints is in its ``log.txt``.

    Args:
        graph: What to compute.
        study: The study's folder.
        max_concurrent: Stages at a time.
        watchdog: Asked now and then whether the running stages get on.

    Returns:
        Key -> error, for stages that failed, or could not start because one before them failed.

    Raises:
        ConfigError: A stage found something that its user must mend.
        JobError: The watchdog saw no progress.
    """
    share_folders(graph, study)
    scheduler = _Scheduler(graph, study, max_concurrent)
    while scheduler.is_busy():
        scheduler.start_ready()
        scheduler.wait()
        if watchdog:
            watchdog.check(scheduler.stages_running)
    return scheduler.errors


def share_folders(graph: StageGraph, study: RunDir) -> None:
    """Tells every run where its stages lie."""
    for run in graph.runs:
        text = strict_json.dumps(graph.folders(run), indent=1)
        storage.write_text(storage.join(run_dir(study, run).uri, SHARED_STAGES), text)


class _Scheduler:
    """Starts stages whose inputs are there, in the order of the graph."""

    def __init__(self, graph: StageGraph, study: RunDir, max_concurrent: int) -> None:
        self.graph, self.study, self.max_concurrent = graph, study, max_concurrent
        self.waiting = dict(graph.nodes)
        self.running: dict[ray.ObjectRef, StageNode] = {}
        self.errors: dict[str, str] = {}
        self.teller = _Teller(graph, study, max_concurrent)

    def is_busy(self) -> bool:
        return bool(self.waiting or self.running)

    def stages_running(self) -> dict[str, StageDir]:
        """What runs now, in words, and its folder."""
        return {str(node): stage_of(node, self.study) for node in self.running.values()}

    def start_ready(self) -> None:
        for node in list(self.waiting.values()):
            unfinished = {*self.waiting, *(node.key for node in self.running.values())}
            if failed := [key for key in node.reads if key in self.errors]:
                self.errors[node.key] = f"not started: {self.graph.nodes[failed[0]]} failed"
                del self.waiting[node.key]
            elif unfinished.intersection(node.reads):
                continue
            elif is_complete(node, self.study):
                del self.waiting[node.key]
                self.teller.found_complete(node)
            elif len(self.running) < self.max_concurrent:
                del self.waiting[node.key]
                self.teller.started(node)
                self.running[start(node, self.study)] = node

    def wait(self) -> None:
        """Until a stage ends, or it is time to say how far the running ones are."""
        if not self.running:
            return
        ready, _ = ray.wait(list(self.running), timeout=_TOLD_EVERY_S)
        for ref in ready:
            node = self.running.pop(ref)
            if error := error_of(ref, node):
                self.errors[node.key] = error
            self.teller.finished(node, error)
        if not ready:
            self.teller.tell(list(self.running.values()))


def stage_of(node: StageNode, study: RunDir) -> StageDir:
    """Its folder."""
    return run_dir(study, node.run).stage(node.name)


def is_complete(node: StageNode, study: RunDir) -> bool:
    """Whether nothing is left to do for it."""
    if not storage.is_file(stage_of(node, study).path(SUMMARY)):
        return False
    return state_of(node.job, node.config, run_dir(study, node.run)) == "complete"


def start(node: StageNode, study: RunDir) -> "ray.ObjectRef":
    """Starts a stage's own job in a Ray task."""
    # The stage's own tasks and workers hold its CPUs; this one only waits for them. DEFAULT, said
    # aloud, keeps all of them out of the placement group of a caller that Tune started.
    task = ray.remote(_run_stage).options(num_cpus=0, name=str(node), scheduling_strategy="DEFAULT")
    return task.remote(node.job.name, node.config, run_dir(study, node.run).uri)


def error_of(ref: "ray.ObjectRef", node: StageNode) -> str | None:
    """What a started stage failed of; None if it is complete. Waits for its end.

    Raises:
        ConfigError: The stage found something that its user must mend.
    """
    try:
        outcome = ray.get(ref)
    except ray.exceptions.RayError as error:
        return (str(error).strip() or repr(error)).splitlines()[-1]
    if "config_error" in outcome:
        raise ConfigError(f"{node}: {outcome['config_error']}")
    return outcome.get("error")


def _run_stage(job_name: str, config: Any, run_uri: str) -> dict[str, str]:
    """Runs on a Ray worker. Errors for the user are returned: Ray would bury them in its own."""
    wait_while_stopping()
    job: Job = importlib.import_module(f"ray_jobs.{job_name}").JOB
    run = RunDir(run_uri)
    with _printing_to(run.stage(job.stage(config)).path(LOG)):
        try:
            # A process that Ray started for this stage before may be about to be killed.
            execute(job, config, run, patience_s=_PATIENCE_S)
        except ConfigError as error:
            return {"config_error": str(error)}
        except (JobError, OSError) as error:
            print(f"Error: {error}", flush=True)
            return {"error": str(error)}
    return {}


@contextlib.contextmanager
def _printing_to(uri: str) -> Iterator[None]:
    """Sends what is printed to a file: at once to a local one, in the end to S3."""
    with contextlib.ExitStack() as stack:
        path = Path(uri)
        if storage.is_s3(uri):
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / LOG
            stack.callback(lambda: storage.write_bytes(uri, path.read_bytes()))
        path.parent.mkdir(parents=True, exist_ok=True)
        log = stack.enter_context(path.open("a", buffering=1))
        stack.enter_context(contextlib.redirect_stdout(log))
        stack.enter_context(contextlib.redirect_stderr(log))
        yield


class _Teller:
    """Says what happens: a line per stage, and between them how far the running ones are."""

    def __init__(self, graph: StageGraph, study: RunDir, max_concurrent: int) -> None:
        self._left = list(graph.nodes.values())
        self._total, self._study, self._max_concurrent = len(self._left), study, max_concurrent
        self._began_at: dict[str, float] = {}
        self._took_s: defaultdict[str, list[float]] = defaultdict(list)
        self._told = ""

    def found_complete(self, node: StageNode) -> None:
        self._left.remove(node)

    def started(self, node: StageNode) -> None:
        self._began_at[node.key] = time.monotonic()

    def finished(self, node: StageNode, error: str | None) -> None:
        self._left.remove(node)
        took_s = time.monotonic() - self._began_at[node.key]
        if error is None:
            self._took_s[node.job.name].append(took_s)
        how = (
            f"FAILED after {duration(took_s)}: {error}" if error else f"done in {duration(took_s)}"
        )
        num_done = self._total - len(self._left)
        print(f"[{num_done}/{self._total}] {node}: {how}{self._time_left()}", flush=True)

    def tell(self, running: Sequence[StageNode]) -> None:
        lines = [f"  {node}: {line}" for node in running if (line := self._last_line(node))]
        if (text := "\n".join(lines)) and text != self._told:
            self._told = text
            print(text, flush=True)

    def _time_left(self) -> str:
        known = [self._took_s[node.job.name] for node in self._left]
        if not known or not all(known):
            return ""
        left_s = sum(sum(took) / len(took) for took in known) / self._max_concurrent
        return f", about {duration(left_s)} left"

    def _last_line(self, node: StageNode) -> str:
        return last_progress_line(stage_of(node, self._study))


def last_progress_line(stage: StageDir) -> str:
    """What a stage's log said last; empty on S3, where the log comes at the end."""
    log = stage.path(LOG)
    if storage.is_s3(log) or not Path(log).is_file():
        return ""
    lines = Path(log).read_text().splitlines()
    return next((line for line in reversed(lines) if line.startswith("[")), "")
