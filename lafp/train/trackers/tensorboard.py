"""TensorBoard: event files in the stage's folder ``tensorboard``, local or S3."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lafp import storage
from lafp.storage.temporary import TemporaryFolder
from lafp.train.trackers.base import TrackedRun

_FOLDER = "tensorboard"
# Objects cannot grow, so the whole file is stored each time.
_STORED_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig:
    """Writes event files for ``tensorboard --logdir``."""

    name: str = "tensorboard"


class TensorBoard:
    """See ``Tracker``. TensorBoard itself leaves out what an interrupted start has logged too much.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    Config = TensorBoardConfig

    def __init__(self, _: TensorBoardConfig, run: TrackedRun) -> None:
        from tensorboardX import SummaryWriter

        self._uri = storage.join(run.uri, _FOLDER)
        is_remote = storage.is_remote(run.uri)
        # The folder lives as long as the object that names it.
        self._scratch = TemporaryFolder() if is_remote else None
        self._folder = Path(self._scratch.name) if self._scratch else storage.path_of(self._uri)
        self._stored_at = time.monotonic()
        self._writer: Any = SummaryWriter(
            str(self._folder),
            purge_step=run.start_step + 1,
            # TensorBoard reads files in the order of their names, which begin with the second.
            filename_suffix=f".{time.time_ns()}",
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
        if time.monotonic() - self._stored_at > _STORED_EVERY_S:
            self._store()

    def close(self) -> None:
        """See ``Tracker``."""
        self._writer.close()
        self._store()

    def _store(self) -> None:
        self._stored_at = time.monotonic()
        if self._scratch:
            for path in self._folder.iterdir():
                storage.write_bytes(storage.join(self._uri, path.name), path.read_bytes())
