"""Records which runs of a study ASHA has stopped."""

from dataclasses import dataclass

from lafp import storage
from lafp.runs.run_dir import RunDir
from lafp.storage import strict_json
from ray_jobs.studies.stage_graph import StageGraph, run_dir

STOPPED_EARLY = "stopped early"
"""The reason why a run is missing from the results if ASHA stopped it."""


@dataclass(frozen=True, kw_only=True)
class _StopMark:
    """Records that ASHA stopped a run."""

    step: int
    stages: list[str]
    """Keys of the run's stages, sorted. They change with its config."""


def mark_stopped_early(graph: StageGraph, study: RunDir, run: str, step: int) -> None:
    """Records that ASHA has stopped a run after so many steps."""
    mark = _StopMark(step=step, stages=sorted(graph.runs[run].values()))
    strict_json.write(_path(study, run), mark)


def was_stopped_early(graph: StageGraph, study: RunDir, run: str) -> bool:
    """Says whether ASHA has stopped a run, in this call or an earlier one.

    A run whose config has changed since then has other stages, and counts as a new one.
    """
    mark = _path(study, run)
    if not storage.is_file(mark):
        return False
    return strict_json.read(_StopMark, mark).stages == sorted(graph.runs[run].values())


def _path(study: RunDir, run: str) -> str:
    return storage.join(run_dir(study, run).uri, "stopped_early.json")
