"""Builds the graph of the stages of many runs, in which runs share equal stages.

A stage's key is a hash of everything that determines its result: its name, its config without the
fields marked ``may_change()``, and the stages that it reads. Its folder is
``<study>/stages/<name>/<key>``. So another config means another folder, and a finished stage serves
every run that wants exactly this stage, now or when the study is run again with more axes or seeds.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lafp import storage
from lafp.runs.identity import fingerprint, recipe_of
from lafp.runs.run_dir import SHARED_STAGES, RunDir, StageDir, StageState
from lafp.storage import strict_json
from ray_jobs.core.job import Job, Part, state_of


@dataclass(frozen=True, kw_only=True)
class StageNode:
    """One stage to compute, for one run or several."""

    name: str
    key: str
    job: Job
    config: object
    reads: tuple[str, ...]
    """Keys of the stages that this stage reads."""
    run: str
    """The first run that wants the stage, which is computed in this run's folder."""

    def __str__(self) -> str:
        return f"{self.name} of {self.run}"


@dataclass(frozen=True, kw_only=True)
class StageGraph:
    """The stages that a study computes."""

    nodes: Mapping[str, StageNode]
    """Key -> stage, each after the stages that it reads."""
    runs: Mapping[str, Mapping[str, str]]
    """Run -> stage -> key."""

    def folders(self, run: str) -> dict[str, str]:
        """Maps the stages that a run may share to their folders below the study's."""
        nodes = (self.nodes[key] for key in self.runs[run].values())
        # Pages belong to one run, so they stay in its own folder.
        return {n.name: f"stages/{n.name}/{n.key}" for n in nodes if not n.job.is_remade}

    def run_dir(self, study: RunDir, run: str) -> RunDir:
        """Returns the folder of one run, with its shared stages, even before they are recorded."""
        return RunDir(run_dir(study, run).uri, shared=self.folders(run))

    def parts(self, study: RunDir) -> list[Part]:
        """Returns the stages of all runs as the parts of one job."""
        wanted = {key: run for run, keys in self.runs.items() for key in keys.values()}
        return [
            Part(self.nodes[key].job, self.nodes[key].config, self.run_dir(study, run))
            for key, run in wanted.items()
        ]

    def states(self, study: RunDir) -> dict[str, StageState]:
        """Maps keys to stage states. A stage that reads an unfinished one cannot have begun."""
        found: dict[str, StageState] = {}
        for key, node in self.nodes.items():
            if all(found[read] == "complete" for read in node.reads):
                found[key] = state_of(node.job, node.config, self.run_dir(study, node.run))
            else:
                found[key] = "new"
        return found

    def shared(self) -> set[str]:
        """Returns the keys of stages that several runs want, which include all that these read."""
        wanted = Counter(key for keys in self.runs.values() for key in keys.values())
        return {key for key, num in wanted.items() if num > 1}

    def why_incomplete(self, run: str, failed: Mapping[str, str]) -> str:
        """Says which stages of a run failed. Only the first run of a stage gets its error.

        Args:
            run: The run.
            failed: Key -> error, for the stages that failed.
        """
        nodes = (self.nodes[key] for key in self.runs[run].values() if key in failed)
        return "; ".join(
            f"{node.name}: {failed[node.key]}" if node.run == run else f"{node} failed"
            for node in nodes
        )

    def write_folders(self, study: RunDir) -> None:
        """Writes into every run's folder where its shared stages lie."""
        for run in self.runs:
            uri = storage.join(run_dir(study, run).uri, SHARED_STAGES)
            strict_json.write(uri, self.folders(run), indent=1)


def share_stages(runs: Mapping[str, Sequence[tuple[Job, object]]]) -> StageGraph:
    """Builds the graph, in which equal stages of several runs become one node.

    Args:
        runs: Name -> jobs with their configs, in order.
    """
    nodes: dict[str, StageNode] = {}
    keys_of: dict[str, dict[str, str]] = {}
    for run, steps in runs.items():
        keys = keys_of[run] = {}
        for job, config in steps:
            name = job.stage(config)
            if job.is_remade:  # the job belongs to one run and reads all of its stages
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
    """Returns the folder of one run of a study."""
    return RunDir(storage.join(study.uri, "runs", name))


def stage_of(node: StageNode, study: RunDir) -> StageDir:
    """Returns the folder of a stage."""
    return run_dir(study, node.run).stage(node.name)


def is_complete(node: StageNode, study: RunDir) -> bool:
    """Says whether nothing is left to do for a stage."""
    if not stage_of(node, study).is_complete():
        return False
    return state_of(node.job, node.config, run_dir(study, node.run)) == "complete"
