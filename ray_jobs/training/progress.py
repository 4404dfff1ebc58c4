"""Shows how far a training is: steps, loss, time left and remarks, read from the stage's files."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from lafp import storage
from lafp.objectives.health import signs_of_collapse
from lafp.runs.progress import Progress
from lafp.runs.run_dir import StageDir
from lafp.runs.side_channel import SideChannel, say_on_stderr
from lafp.storage import StorageError
from lafp.storage.json_lines import read_lines
from lafp.train.config import TrainConfig
from lafp.train.metrics.damaged_clips import DAMAGED
from lafp.train.metrics.feeding import advice
from lafp.train.metrics.finite_guard import SKIPPED
from lafp.train.metrics.log import DAMAGED_FILE, SKIPPED_FILE, read_metrics, read_starts
from lafp.train.notes import read_notes
from ray_jobs.core.cluster import is_ray_wanted
from ray_jobs.training.failures import FAILURES

HEADLINES = {
    "loss": "loss",
    "probe/r2": "probe R²",
    "val/loss": "held-out loss",
    "val/action_r2_deployed": "held-out action R²",
}
"""Metric -> its name in the progress line, which shows those of these metrics that a task has."""

COUNTED = {
    SKIPPED: ("steps were skipped, as loss or gradients were not finite", SKIPPED_FILE),
    DAMAGED: ("clips could not be read, and others stood in for them", DAMAGED_FILE),
}
"""Metric -> the meaning of a value above zero, and the file that names the steps or clips."""


@contextmanager
def shown_progress(stage: StageDir, cfg: TrainConfig) -> Iterator[None]:
    """Shows steps, loss and time left, read from the stage's files while training runs."""
    # Failures of an earlier command must not be told as those of this one.
    storage.delete(stage.path(FAILURES))
    follower = _Follower(stage, cfg)
    stop = threading.Event()
    # Every look is several requests to S3.
    interval_s = 10.0 if storage.is_remote(stage.uri) else 1.0
    channel = SideChannel(f"[{stage.name}] progress", follower.say)

    def show() -> None:
        is_last = False
        while not is_last:
            is_last = stop.wait(interval_s)
            # If storage fails, there is nothing new to show; the workers themselves wait for it.
            with channel.guarded(), suppress(StorageError):
                follower.look()
        follower.end()

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class _Follower:
    """Reads a stage's files again and again, and prints what is new in them."""

    def __init__(self, stage: StageDir, cfg: TrainConfig) -> None:
        self._stage, self._num_steps = stage, cfg.num_steps
        self._num_readers = cfg.num_workers * cfg.ingest.num_readers
        self._num_starts = len(read_starts(stage.uri))
        self._num_notes = len(read_notes(stage.uri))
        self._progress: Progress | None = None
        self._shown_step = -1.0
        self._said: set[str] = set()

    def look(self) -> None:
        """Prints what is new since the last look."""
        stage = self._stage
        starts, records = read_starts(stage.uri), read_metrics(stage.uri)
        notes = read_notes(stage.uri)
        for note in notes[self._num_notes :]:
            self._num_notes += 1
            self.say(f"[{stage.name}] {note['text']}")
        if len(starts) > self._num_starts:
            self._num_starts, start_step = len(starts), int(starts[-1]["step"])
            if self._num_starts > 1:
                self.say(f"{_last_failure(stage)}resuming from step {start_step}")
            self._progress = Progress(stage.name, self._num_steps, "steps")
            self._progress.found(start_step)
        if self._progress and records:
            latest = {name: value for record in records for name, value in record.items()}
            if latest["step"] != self._shown_step:
                self._shown_step = latest["step"]
                self._progress.update(int(self._shown_step), _headline(latest))
                if is_ray_wanted():
                    from data_pipelines.on_ray.metrics import show_training

                    show_training(latest, stage.uri.removesuffix(stage.name), stage.name)
                for line in remarks(stage, records, self._num_readers, self._said):
                    self._progress.say(line)

    def say(self, line: str) -> None:
        """Prints a line, above the live progress line if there is one."""
        (self._progress.say if self._progress else say_on_stderr)(line)

    def end(self) -> None:
        """Ends the live progress line."""
        if self._progress:
            self._progress.__exit__()


def _last_failure(stage: StageDir) -> str:
    where = f"[{stage.name}] "
    if not (failures := read_lines(stage.path(FAILURES))):
        return where
    return f"{where}worker {failures[-1]['rank']} failed: {failures[-1]['error']}\n{where}"


def remarks(
    stage: StageDir, records: Sequence[Mapping[str, float]], num_readers: int, said: set[str]
) -> Iterator[str]:
    """Yields each kind of remark once: skipped steps, damaged clips, signs of a collapsed LAM.

    Once it also says how many cores decoding needs, in a line that does not look like progress.
    """
    for record in records:
        for name, (words, file) in COUNTED.items():
            if record.get(name) and name not in said:
                said.add(name)
                yield (
                    f"[{stage.name}] step {record['step']:.0f}: {words}. They are counted, and "
                    f"listed in {stage.path(file)}."
                )
        for sign, words in signs_of_collapse(record).items():
            if sign not in said:
                said.add(sign)
                yield f"[{stage.name}] step {record['step']:.0f}: {words}"
    if len(records) > 1 and "advice" not in said:  # the first record includes the warm-up
        said.add("advice")
        if line := advice(records[-1], num_readers):
            yield f"{stage.name}: {line}"


def _headline(metrics: dict[str, float]) -> str:
    shown = [f"{words} {metrics[name]:.3g}" for name, words in HEADLINES.items() if name in metrics]
    return "  ".join(shown)
