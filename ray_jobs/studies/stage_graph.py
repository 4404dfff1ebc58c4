"""The stages of many runs, each computed once: what two runs would do alike, they share.

A stage is known by all that decides what it makes: its name, its config without the fields marked
``may_change()``, and the stages that it reads. Its folder is ``<study>/stages/<name>/<key>``. So
another config is another folder, and a finished stage serves every run that wants exactly it, now
or when the study is run again with more axes or seeds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lafp import storage
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
from ray_jobs.core.job import Job, Part, state_of


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

    def shared(self) -> set[str]:
        """Keys of the stages that more than one run wants, and so of all stages that these read."""
        wanted = Counter(key for keys in self.runs.values() for key in keys.values())
        return {key for key, num in wanted.items() if num > 1}

    def write_folders(self, study: RunDir) -> None:
        """Tells every run where its stages lie."""
        for run in self.runs:
            text = strict_json.dumps(self.folders(run), indent=1)
            storage.write_text(storage.join(run_dir(study, run).uri, SHARED_STAGES), text)


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


def stage_of(node: StageNode, study: RunDir) -> StageDir:
    """Its folder."""
    return run_dir(study, node.run).stage(node.name)


def is_complete(node: StageNode, study: RunDir) -> bool:
    """Whether nothing is left to do for it."""
    if not storage.is_file(stage_of(node, study).path(SUMMARY)):
        return False
    return state_of(node.job, node.config, run_dir(study, node.run)) == "complete"
