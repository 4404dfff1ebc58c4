"""Trackio: a local database that ``trackio show`` shows. Needs ``pip install 'lafp[trackio]'``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lafp.train.trackers.base import PROJECT, TrackedRun


@dataclass(frozen=True, kw_only=True)
class TrackioConfig:
    """Writes to Trackio: TRACKIO_DIR, or where its own environment variables say."""

    name: str = "trackio"


class Trackio:
    """See ``Tracker``.

    Raises:
        ImportError: trackio is not installed.
    """

    Config = TrackioConfig

    def __init__(self, _: TrackioConfig, run: TrackedRun) -> None:
        import trackio

        # Trackio knows runs by their names.
        self._run: Any = trackio.init(
            PROJECT,
            name=f"{run.name}-{run.tracker_id()}",
            config=run.config,
            resume="allow",
            embed=False,
            # Threads that measure the machine would run beside the training.
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._run.finish()
