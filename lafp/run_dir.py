"""A run directory that explains itself: ``<storage>/<run>/<stage>/...``.

Every stage folder holds ``config.yaml`` (resolved), ``provenance.json`` (versions, git revision,
inputs), ``metrics.jsonl`` and, once complete, ``summary.json``. A stage is complete when, and only
when, its summary is there.
"""

import hashlib
import json
import time
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal

import yaml

from lafp import storage, strict_json
from lafp.config import ConfigError, config_to_dict, config_to_yaml
from lafp.provenance import provenance

SHARED_STAGES = "stages.json"
"""In ``<study>/runs/<run>/``: stage -> folder below ``<study>/``, for what the run shares."""

StageState = Literal["new", "partial", "complete"]


@dataclass(frozen=True)
class RunDir:
    """One run: the folder that all its stages share."""

    uri: str

    def stage(self, name: str) -> "StageDir":
        """The stage called e.g. ``lam`` or ``policy/latent_flow``: its folder, own or shared."""
        return StageDir(self.shared_stages.get(name) or storage.join(self.uri, name), name)

    @cached_property
    def shared_stages(self) -> dict[str, str]:
        """Name -> folder of the stages that this run shares with others of its study."""
        path = storage.join(self.uri, SHARED_STAGES)
        if not storage.is_file(path):
            return {}
        study = self.uri.rstrip("/").rsplit("/", 2)[0]
        shared = json.loads(storage.read_text(path))
        return {name: storage.join(study, folder) for name, folder in shared.items()}

    def stages_below(self, folder: str) -> list[str]:
        """Names of the stages ``folder/...`` that were begun or are shared, sorted."""
        own = (f"{folder}/{name}" for name in storage.list_folders(storage.join(self.uri, folder)))
        shared = (name for name in self.shared_stages if name.startswith(f"{folder}/"))
        return sorted({*own, *shared})


@dataclass(frozen=True)
class StageDir:
    """One stage's folder and its life: begin, work, finish."""

    uri: str
    name: str

    def path(self, *parts: str) -> str:
        """URI of a file in the folder."""
        return storage.join(self.uri, *parts)

    def state(self, config: Any, inputs: dict[str, str]) -> StageState:
        """How far this stage is, for exactly this config and these inputs.

        Raises:
            ConfigError: The folder holds a run of another config or other inputs. Fields marked
                ``may_change()`` (steps, workers ...) may differ; a complete stage then counts as
                partial.
        """
        if not storage.is_file(self.path("provenance.json")):
            return "new"
        begun = json.loads(storage.read_text(self.path("provenance.json")))
        self._check_same("config", begun["identity"], _identity(config))
        self._check_same("inputs", begun["inputs"], inputs)
        if not storage.is_file(self.path("summary.json")):
            return "partial"
        stored = yaml.safe_load(storage.read_text(self.path("config.yaml")))
        return "complete" if stored == _plain(config) else "partial"

    def begin(self, config: Any, inputs: dict[str, str]) -> None:
        """Records what is about to run, and takes back an earlier ``summary.json``."""
        storage.delete(self.path("summary.json"))
        begun = {
            "stage": self.name,
            "begun_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "inputs": inputs,
            **provenance(),
            "identity": _identity(config),
        }
        storage.write_text(self.path("config.yaml"), config_to_yaml(config))
        storage.write_text(self.path("provenance.json"), strict_json.dumps(begun, indent=1))

    def finish(self, summary: dict[str, Any]) -> None:
        """Marks the stage complete. The last write of every stage."""
        storage.write_text(self.path("summary.json"), strict_json.dumps(summary, indent=1))

    def summary(self) -> dict[str, Any]:
        """What ``finish`` stored.

        Raises:
            ConfigError: The stage is not complete, with the job that completes it.
        """
        if not storage.is_file(self.path("summary.json")):
            raise ConfigError(
                f"Stage '{self.name}' is not complete in {self.uri}: summary.json is missing. "
                "Run its job first, with the same --run-name and --storage."
            )
        return json.loads(storage.read_text(self.path("summary.json")))

    def fingerprint(self) -> str:
        """Hash of a complete stage's config and inputs; later stages record it as an input."""
        self.summary()
        begun = json.loads(storage.read_text(self.path("provenance.json")))
        config = yaml.safe_load(storage.read_text(self.path("config.yaml")))
        return fingerprint([begun["inputs"], config])

    def _check_same(self, what: str, stored: Any, given: Any) -> None:
        if stored != given:
            differences = "; ".join(_differences(stored, given))
            raise ConfigError(
                f"{self.uri} was made with another {what}: {differences}. "
                "Use another --run-name, or delete that folder to make it anew."
            )


def fingerprint(value: Any) -> str:
    """Short hash of anything JSON can hold."""
    return hashlib.sha256(strict_json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _plain(config: Any) -> Any:
    return yaml.safe_load(config_to_yaml(config))


def _identity(config: Any) -> Any:
    """The config without the fields that may change when a stage is resumed."""
    if is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: _identity(getattr(config, f.name))
            for f in fields(config)
            if not f.metadata.get("may_change")
        }
    if isinstance(config, list | tuple):
        return [_identity(value) for value in config]
    return config_to_dict(config)


def _differences(stored: Any, given: Any, where: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        return [
            line
            for key in dict.fromkeys([*stored, *given])
            if stored.get(key) != given.get(key)
            for line in _differences(stored.get(key), given.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [f"{where} was {stored!r}, now {given!r}"]
