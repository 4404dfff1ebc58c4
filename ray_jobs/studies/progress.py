"""Prints how far a study is, and asks the watchdog whether its stages make progress."""

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lafp import storage
from lafp.runs.progress import duration
from lafp.runs.run_dir import RunDir, StageDir
from lafp.runs.wording import printable
from ray_jobs.core.job import LOG
from ray_jobs.core.watchdog import Watchdog
from ray_jobs.studies.stage_graph import StageNode, stage_of

_PRINT_EVERY_S = 20.0


class ProgressPrinter:
    """Prints a line when a stage ends, and from time to time how far the running ones are.

    Args:
        nodes: The stages that are to be computed.
        study: The study's folder.
        max_concurrent: Largest number of stages at a time, to estimate the remaining time.
        watchdog: Raises an error if the running stages make no progress. Only ``look`` needs it.
    """

    def __init__(
        self,
        nodes: Iterable[StageNode],
        study: RunDir,
        max_concurrent: int,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._left = {node.key: node for node in nodes}
        self._total, self._study = len(self._left), study
        self._max_concurrent, self._watchdog = max_concurrent, watchdog
        self._began_at: dict[str, float] = {}
        self._took_s: defaultdict[str, list[float]] = defaultdict(list)
        self._printed_at, self._printed = time.monotonic(), ""

    def started(self, node: StageNode) -> None:
        """Notes when a stage starts. A restart after its process died does not change the time."""
        self._began_at.setdefault(node.key, time.monotonic())

    def ended(self, node: StageNode, error: str | None) -> None:
        """Prints how a stage ended, and the estimated remaining time of the study."""
        self._left.pop(node.key, None)
        took_s = time.monotonic() - self._began_at[node.key]
        if error is None:
            self._took_s[node.job.name].append(took_s)
        how = (
            f"FAILED after {duration(took_s)}: {error}" if error else f"done in {duration(took_s)}"
        )
        self._print_line(node, f"{how}{self._time_left()}")

    def given_up(self, run: str, nodes: Iterable[StageNode], why: str) -> None:
        """Prints why the rest of a run is not computed."""
        for node in nodes:
            self._left.pop(node.key, None)
        self._print_line(run, why)

    def look(self) -> None:
        """Asks the watchdog, and every 20 s prints the last line of each running stage.

        Raises:
            JobError: No stage makes progress.
        """
        assert self._watchdog is not None
        self._watchdog.check(self._stages_running)
        if time.monotonic() - self._printed_at < _PRINT_EVERY_S:
            return
        self._printed_at = time.monotonic()
        lines = (
            f"  {words}: {line}"
            for words, stage in self._stages_running().items()
            if (line := last_progress_line(stage))
        )
        if (text := "\n".join(lines)) and text != self._printed:
            self._printed = text
            print(printable(text), flush=True)

    def _print_line(self, what: object, how: str) -> None:
        num_done = self._total - len(self._left)
        print(f"[{num_done}/{self._total}] {what}: {printable(how)}", flush=True)

    def _stages_running(self) -> dict[str, StageDir]:
        running = (node for key, node in self._left.items() if key in self._began_at)
        return {str(node): stage_of(node, self._study) for node in running}

    def _time_left(self) -> str:
        known = [self._took_s[node.job.name] for node in self._left.values()]
        if not known or not all(known):
            return ""
        left_s = sum(sum(took) / len(took) for took in known) / self._max_concurrent
        return f", about {duration(left_s)} left"


def last_progress_line(stage: StageDir) -> str:
    """Returns the last progress line of a stage's log. On S3 the log appears only at the end."""
    log = stage.path(LOG)
    if storage.is_remote(log) or not Path(log).is_file():
        return ""
    lines = Path(log).read_text().splitlines()
    return next((line for line in reversed(lines) if line.startswith("[")), "")
