"""Weights & Biases. Offline, each stage has one folder, which ``wandb sync`` makes one run of."""

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lafp import storage
from lafp.storage.temporary import TemporaryFolder, folder_for_libraries
from lafp.train.trackers.base import PROJECT, TrackedRun


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Sends metrics to Weights & Biases, or keeps them for ``wandb sync``."""

    name: str = "wandb"
    mode: Literal["auto", "online", "offline"] = "auto"
    """``auto`` is online if the user is logged in, else offline."""


class Wandb:
    """See ``Tracker``."""

    Config = WandbConfig

    def __init__(self, cfg: WandbConfig, run: TrackedRun) -> None:
        with folder_for_libraries():
            import wandb

        mode = cfg.mode
        if mode == "auto":
            mode = "online" if wandb.api.api_key else "offline"
        run_id = run.tracker_id()
        is_offline_here = mode == "offline" and not storage.is_remote(run.uri)
        earlier = _offline_folders(run, run_id) if is_offline_here else []
        self._folder = None
        folder = run.uri
        if storage.is_remote(run.uri):  # wandb writes to local folders only
            if mode == "offline":
                # Nothing else holds what `wandb sync` will send, so this folder stays.
                folder = tempfile.mkdtemp(prefix="lafp-wandb-")
            else:
                self._folder = TemporaryFolder(ignore_cleanup_errors=True)
                folder = self._folder.name
        # Folders are named by the second. Two starts in one folder would lose records.
        while any(time.strftime("%Y%m%d_%H%M%S") in done.name for done in earlier):
            time.sleep(0.1)
        self._run: Any = wandb.init(
            project=PROJECT,
            name=run.name,
            id=run_id,
            resume="allow",
            # A process may train one stage after another, also after one that failed.
            reinit="finish_previous",
            mode=mode,
            dir=folder,
            config=run.config,
        )
        if mode == "offline":
            # Offline, every start writes a folder of its own. The last one holds all, so that the
            # order of `wandb sync` does not matter, and lacks the steps that are done again.
            for record in run.records:
                metrics = {name: value for name, value in record.items() if name != "step"}
                self.log(record["step"], metrics)
        for done in earlier:
            shutil.rmtree(done)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See ``Tracker``."""
        self._run.finish()
        if self._folder is not None:
            self._folder.cleanup()


def _offline_folders(run: TrackedRun, run_id: str) -> list[Path]:
    return list((storage.path_of(run.uri) / "wandb").glob(f"offline-run-*-{run_id}"))
