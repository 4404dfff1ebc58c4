"""Writes the logs of a training run: metrics, starts, skipped steps and damaged clips."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from lafp import storage
from lafp.config import Choice, config_to_dict
from lafp.runs.side_channel import SideChannel
from lafp.storage.json_lines import JsonLines, read_lines
from lafp.storage.strict_json import defined, dump_lines
from lafp.train.notes import write_note
from lafp.train.trackers import TRACKERS
from lafp.train.trackers.base import TrackedRun, Tracker

METRICS_FILE = "metrics.jsonl"
STARTS_FILE = "starts.jsonl"
SKIPPED_FILE = "skipped_steps.jsonl"
DAMAGED_FILE = "damaged_clips.jsonl"


class MetricsLog:
    """Writes ``metrics.jsonl``, one JSON record per report, on rank 0.

    Beside it ``starts.jsonl`` lists the steps at which the run was started and resumed. If needed,
    ``skipped_steps.jsonl`` lists the clips of skipped steps, ``damaged_clips.jsonl`` the clips that
    could not be read, and ``notes.jsonl`` notes for people who follow the run.

    A failure to write does not end the training: the records are written with the next ones.

    Args:
        uri: The stage's folder.
        start_step: Records of an interrupted run after this step are dropped.
        tracker: Config of a tracker that receives the metrics too, if any.
        config: The job's config, which is sent to the tracker.
    """

    def __init__(
        self, uri: str, start_step: int, tracker: Choice | None = None, config: object = None
    ) -> None:
        self._lines = JsonLines(storage.join(uri, METRICS_FILE), start_step)
        self._skipped = JsonLines(storage.join(uri, SKIPPED_FILE), start_step)
        self._damaged = JsonLines(storage.join(uri, DAMAGED_FILE), start_step)
        self._step, self._uri = start_step, uri
        self.last = {n: value for record in read_metrics(uri) for n, value in record.items()}
        """The latest value of every metric."""
        starts = [*read_starts(uri), {"step": start_step, "at": time.time()}]
        storage.write_text(storage.join(uri, STARTS_FILE), dump_lines(starts))
        self._files = SideChannel(f"The files of metrics in {uri}", self.note)
        self._tracking = SideChannel(tracker.name if tracker else "", self.note)
        self._tracker: Tracker | None = None
        if tracker:
            with self._tracking.guarded():
                self._tracker = _begin(tracker, uri, start_step, config)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a record without the metrics that are not finite."""
        self._step = step
        with self._files.guarded():
            self._lines.append([{"step": step, **metrics}])
        if self._tracker:
            with self._tracking.guarded():
                self._tracker.log(step, defined(metrics))

    def write_skipped(self, steps: Iterable[Mapping[str, object]]) -> None:
        """Appends the skipped steps that ``FiniteGuard.read`` returned."""
        with self._files.guarded():
            self._skipped.append(steps)

    def write_damaged(self, clips: Iterable[Mapping[str, object]]) -> None:
        """Appends the damaged clips that ``DamagedClips.read`` returned."""
        with self._files.guarded():
            self._damaged.append(clips)

    def note(self, text: str) -> None:
        """Appends a line for people to ``notes.jsonl``, which the driver shows."""
        write_note(self._uri, self._step, text)

    def flush(self) -> None:
        """Stores all records. A checkpoint's run goes on after it, so they must be there first."""
        with self._files.guarded():
            for lines in (self._lines, self._skipped, self._damaged):
                lines.flush()

    def close(self) -> None:
        """Stores all records, and ends this start in the tracker."""
        self.flush()
        if self._tracker:
            with self._tracking.guarded():
                self._tracker.close()


def read_metrics(uri: str) -> list[dict[str, Any]]:
    """Returns the records of a stage's ``metrics.jsonl``; an empty list if there is no such file.

    A last line that a killed process left unfinished is skipped.
    """
    return read_lines(storage.join(uri, METRICS_FILE))


def read_starts(uri: str) -> list[dict[str, Any]]:
    """Returns the starts of a stage: the step and the time of each."""
    return read_lines(storage.join(uri, STARTS_FILE))


def _begin(tracker: Choice, uri: str, start_step: int, config: object) -> Tracker:
    run = TrackedRun(
        uri=uri,
        start_step=start_step,
        config=config_to_dict(config),
        records=read_metrics(uri),
    )
    return TRACKERS.build(tracker, run)
