"""Writes the logs of a training run: metrics, starts, skipped steps and damaged clips."""

import tempfile
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from lafp import storage
from lafp.config import config_to_dict
from lafp.runs.side_channel import SideChannel
from lafp.storage.json_lines import JsonLines, read_lines
from lafp.storage.strict_json import defined, dump_lines
from lafp.train.notes import write_note

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
        wandb: ``off``, ``auto`` (online if the user is logged in), ``online`` or ``offline``.
        config: The job's config, which is sent to wandb.
    """

    def __init__(self, uri: str, start_step: int, wandb: str = "off", config: Any = None) -> None:
        self._lines = JsonLines(storage.join(uri, METRICS_FILE), start_step)
        self._skipped = JsonLines(storage.join(uri, SKIPPED_FILE), start_step)
        self._damaged = JsonLines(storage.join(uri, DAMAGED_FILE), start_step)
        self._step, self._uri = start_step, uri
        self.last = {n: value for record in read_metrics(uri) for n, value in record.items()}
        """The latest value of every metric."""
        starts = [*read_starts(uri), {"step": start_step, "at": time.time()}]
        storage.write_text(storage.join(uri, STARTS_FILE), dump_lines(starts))
        self._files = SideChannel(f"The files of metrics in {uri}", self.note)
        self._wandb_channel = SideChannel("wandb", self.note)
        self._wandb: Any = None
        with self._wandb_channel.guarded():
            self._wandb = _start_wandb(wandb, uri, start_step, config)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends a record without the metrics that are not finite."""
        self._step = step
        with self._files.guarded():
            self._lines.append([{"step": step, **metrics}])
        if self._wandb:
            with self._wandb_channel.guarded():
                self._wandb.log(defined(metrics), step=step)

    def write_skipped(self, steps: Iterable[Mapping[str, Any]]) -> None:
        """Appends the skipped steps that ``FiniteGuard.read`` returned."""
        with self._files.guarded():
            self._skipped.append(steps)

    def write_damaged(self, clips: Iterable[Mapping[str, Any]]) -> None:
        """Appends the damaged clips that ``DamagedClips.read`` returned."""
        with self._files.guarded():
            self._damaged.append(clips)

    def note(self, text: str) -> None:
        """Appends a line for people to ``notes.jsonl``, which the driver shows."""
        write_note(self._uri, self._step, text)

    def close(self) -> None:
        """Ends the wandb run."""
        if self._wandb:
            with self._wandb_channel.guarded():
                self._wandb.finish()


def read_metrics(uri: str) -> list[dict[str, Any]]:
    """Returns the records of a stage's ``metrics.jsonl``; an empty list if there is no such file.

    A last line that a killed process left unfinished is skipped.
    """
    return read_lines(storage.join(uri, METRICS_FILE))


def read_starts(uri: str) -> list[dict[str, Any]]:
    """Returns the starts of a stage: the step and the time of each."""
    return read_lines(storage.join(uri, STARTS_FILE))


def _start_wandb(mode: str, uri: str, start_step: int, config: Any) -> Any:
    if mode == "off":
        return None
    import wandb

    if mode == "auto":
        mode = "online" if wandb.api.api_key else "offline"
    id_uri = storage.join(uri, "wandb_id")
    # A resumed run goes on with its curves, one that begins anew gets others.
    if start_step and storage.is_file(id_uri):
        run_id = storage.read_text(id_uri)
    else:
        run_id = uuid.uuid4().hex[:12]
        storage.write_text(id_uri, run_id)
    return wandb.init(
        project="lafp",
        name="/".join(uri.split("/")[-2:]),
        id=run_id,
        resume="allow",
        # A process may train one stage after another, also after one that failed.
        reinit="finish_previous",
        mode=mode,  # type: ignore[arg-type]
        # wandb writes to local folders only.
        dir=tempfile.mkdtemp(prefix="lafp-wandb-") if storage.is_s3(uri) else uri,
        config=config_to_dict(config),
    )
