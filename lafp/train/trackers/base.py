"""The interface of trackers, which show the metrics of runs beside each other."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lafp import storage

PROJECT = "lafp"
_ID_FILE = "tracker_id"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Describes one start of a training run to its tracker."""

    uri: str
    """Folder of the stage, local or S3."""
    start_step: int
    """Number of steps that earlier starts have done."""
    config: Any
    """The job's config, of plain values."""
    records: Sequence[Mapping[str, Any]]
    """Metrics that earlier starts have logged up to ``start_step``, each with its ``step``."""

    @property
    def name(self) -> str:
        """Returns the names of run and stage."""
        return "/".join(self.uri.rstrip("/").split("/")[-2:])

    def tracker_id(self) -> str:
        """Returns the id of the run in the tracker, which the stage's folder keeps.

        A resumed run goes on with its curves, one that begins anew gets others.
        """
        uri = storage.join(self.uri, _ID_FILE)
        if self.start_step and storage.is_file(uri):
            return storage.read_text(uri)
        made = uuid.uuid4().hex[:12]
        storage.write_text(uri, made)
        return made


class Tracker(Protocol):
    """Receives metrics. ``TRACKERS.build(cfg, run)`` builds one, ``cls.Config`` configures it.

    Any method may raise: the training goes on without the tracker (``SideChannel``).
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends the metrics of one report, which are finite numbers."""
        ...

    def close(self) -> None:
        """Ends this start of the run."""
        ...
