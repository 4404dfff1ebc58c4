"""Opens the runs that are compared, and finds the stages that they have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lafp import storage
from lafp.config import ConfigError
from lafp.report import drawings
from lafp.report.blocks import Section
from lafp.runs.run_dir import RunDir, StageDir


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs that are compared."""

    run: RunDir
    label: str
    """The end of its URI that tells it from the others."""
    number: int
    """Its place in the command line."""

    @cached_property
    def stages(self) -> dict[str, StageDir]:
        """Name -> the stages that have begun, in the order of a report."""
        found = [*self.run.begun_stages(), self.run.stage("lam_evaluation")]
        return {stage.name: stage for stage in found if stage.is_begun()}

    def complete(self, name: str) -> StageDir | None:
        """Returns the stage called ``name`` if it is complete."""
        stage = self.stages.get(name)
        return stage if stage and stage.is_complete() else None

    @property
    def color(self) -> str:
        """The colour of the run in every chart."""
        return drawings.CYCLE[self.number % len(drawings.CYCLE)]

    @property
    def is_dashed(self) -> bool:
        """Whether its curves are dashed, because an earlier run has its colour."""
        return self.number >= len(drawings.CYCLE)


Runs = Sequence[ComparedRun]


@dataclass(frozen=True)
class Part:
    """A part of the comparison: a section of the page, and lines for the terminal."""

    section: Section
    lines: Sequence[str]


def open_runs(uris: Sequence[str]) -> list[ComparedRun]:
    """Opens the runs in these folders, local or S3.

    Raises:
        ConfigError: A folder holds no run, is named twice, or the runs have no stage in common.
    """
    for number, uri in enumerate(uris):
        if uri in uris[:number]:
            raise ConfigError(f"{uri} is named twice. Name different runs.")
    labels = _labels(uris)
    runs = [ComparedRun(RunDir(uri), labels[n], n) for n, uri in enumerate(uris)]
    for compared in runs:
        if not compared.stages:
            raise ConfigError(_no_run(compared.run.uri))
    if not common_stages(runs):
        has = "; ".join(f"{each.label} has {', '.join(each.stages)}" for each in runs)
        raise ConfigError(
            f"These runs are of different kinds, because no stage is in all of them: {has}. Name "
            "runs of the same jobs."
        )
    return runs


def common_stages(runs: Runs) -> list[str]:
    """Names the stages that have begun in all runs, in the order of a report."""
    return [name for name in runs[0].stages if all(name in each.stages for each in runs)]


def all_stages(runs: Runs) -> list[str]:
    """Names the stages that have begun in any run."""
    return list(dict.fromkeys(name for each in runs for name in each.stages))


def _labels(uris: Sequence[str]) -> list[str]:
    """Shortens URIs to as many last parts as tell them apart."""
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for length in range(1, max(map(len, parts))):
        labels = ["/".join(of_uri[-length:]) for of_uri in parts]
        if len(set(labels)) == len(uris):
            return labels
    return list(uris)


def _no_run(uri: str) -> str:
    """Says that a folder holds no run, and what to name instead."""
    if runs := storage.list_folders(storage.join(uri, "runs")):
        hint = f"It holds runs: name two of them, such as {storage.join(uri, 'runs', runs[0])}."
    elif StageDir(uri, "").is_begun():
        hint = "It is one stage of a run: name the folder of the run, above it."
    else:
        hint = "Name the folder that jobs wrote, such as runs/mine."
    return f"There is no run at {uri}: no stage has begun there. {hint}"
