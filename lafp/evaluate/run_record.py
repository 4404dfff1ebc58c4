"""Reads what a run directory says about itself: configs, provenance, metrics, summaries."""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from lafp import storage
from lafp.runs.run_dir import RunDir
from lafp.train.metrics.log import read_metrics


@dataclass(frozen=True)
class StageRecord:
    """One stage's folder, read lazily."""

    uri: str
    name: str

    @property
    def is_begun(self) -> bool:
        """Whether the stage was ever started."""
        return storage.is_file(storage.join(self.uri, "provenance.json"))

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """``summary.json``; None while the stage is not complete."""
        path = storage.join(self.uri, "summary.json")
        return json.loads(storage.read_text(path)) if storage.is_file(path) else None

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """``provenance.json``."""
        return json.loads(storage.read_text(storage.join(self.uri, "provenance.json")))

    @cached_property
    def config_yaml(self) -> str:
        """The resolved config, as written."""
        return storage.read_text(storage.join(self.uri, "config.yaml"))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config."""
        return yaml.safe_load(self.config_yaml) or {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``."""
        return read_metrics(self.uri)

    def path(self, *parts: str) -> str:
        """URI of a file in the folder."""
        return storage.join(self.uri, *parts)

    def has(self, *parts: str) -> bool:
        """Whether the folder holds that file."""
        return storage.is_file(self.path(*parts))


@dataclass(frozen=True)
class RunRecord:
    """A run directory and its begun stages, in the order of the pipeline."""

    uri: str
    stages: tuple[StageRecord, ...]

    @classmethod
    def read(cls, uri: str) -> "RunRecord":
        """Finds the begun stages of a run."""
        run = RunDir(uri)
        below = {folder: run.stages_below(folder) for folder in ("shards", "policy", "decoder")}
        shards = sorted(below["shards"], key=lambda name: name != "shards/videos")
        names = ["demonstrations", *shards, "lam", *below["policy"], *below["decoder"]]
        names.append("evaluation")
        stages = (StageRecord(run.stage(name).uri, name) for name in names)
        return cls(uri, tuple(stage for stage in stages if stage.is_begun))

    @property
    def name(self) -> str:
        """Name of the run: the last part of its URI."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def complete(self, name: str) -> StageRecord | None:
        """The stage called ``name`` if it is complete."""
        return next((s for s in self.stages if s.name == name and s.summary is not None), None)

    def complete_below(self, folder: str) -> list[StageRecord]:
        """The complete stages ``folder/...``, e.g. all policies."""
        prefix = folder + "/"
        return [s for s in self.stages if s.name.startswith(prefix) and s.summary is not None]
