"""A run directory that explains itself: ``<storage>/<run>/<stage>/...``.

Every stage folder holds ``config.yaml`` (resolved), ``provenance.json`` (versions, git revision,
inputs), ``metrics.jsonl`` and, once complete, ``summary.json``. A stage is complete when, and only
when, its summary is there.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal

from lafp import storage
from lafp.config import ConfigError, config_to_dict, config_to_yaml
from lafp.runs.content import content_hash
from lafp.runs.provenance import provenance
from lafp.storage import strict_json

SHARED_STAGES = "stages.json"
"""In ``<study>/runs/<run>/``: stage -> folder below ``<study>/``, for what the run shares."""

PROVENANCE, SUMMARY = "provenance.json", "summary.json"
StageState = Literal["new", "partial", "complete"]
_WORDS = {"config": "another config", "inputs": "other inputs"}


@dataclass(frozen=True)
class RunDir:
    """One run: the folder that all its stages share."""

    uri: str
    shared: Mapping[str, str] | None = None
    """What its ``stages.json`` is going to hold, where that is known and not written yet."""
    accept_changes: bool = False
    """Whether stages that can go on with another config or other inputs shall do so."""

    def stage(self, name: str) -> "StageDir":
        """The stage called e.g. ``lam`` or ``policy/latent_flow``: its folder, own or shared.

        Raises:
            ConfigError: A name in the config would lead out of the run's folder.
        """
        if name:
            check_folder_name(name, "The stage's name")
        return StageDir(self.shared_stages.get(name) or storage.join(self.uri, name), name)

    @cached_property
    def shared_stages(self) -> dict[str, str]:
        """Name -> folder of the stages that this run shares with others of its study."""
        shared = self.shared
        if shared is None:
            path = storage.join(self.uri, SHARED_STAGES)
            shared = json.loads(storage.read_text(path)) if storage.is_file(path) else {}
        study = storage.join(self.uri).rsplit("/", 2)[0]
        return {name: storage.join(study, folder) for name, folder in shared.items()}

    def stages_below(self, folder: str) -> list[str]:
        """Names of the stages ``folder/...`` that were begun or are shared, sorted."""
        own = (f"{folder}/{name}" for name in storage.list_folders(storage.join(self.uri, folder)))
        shared = (name for name in self.shared_stages if name.startswith(f"{folder}/"))
        return sorted({*own, *shared})


def check_folder_name(name: str, what: str) -> None:
    """Sees to it that a name which a user gave names a folder below another, and a visible one.

    Args:
        name: May hold ``/``: folders in folders.
        what: Names it in the error.

    Raises:
        ConfigError: It does not.
    """
    for part in name.split("/"):
        if not part or part[0] in ".~" or not part.isprintable() or len(part.encode()) > 255:
            raise ConfigError(
                f"{what} is {name!r}, which is to be a folder. Use letters, digits, '_', '-' and "
                "'.'; no part of it may be empty, begin with '.' or '~', or be longer than 255 "
                "bytes."
            )


@dataclass(frozen=True)
class StageDir:
    """One stage's folder and its life: begin, work, finish."""

    uri: str
    name: str

    def path(self, *parts: str) -> str:
        """URI of a file in the folder."""
        return storage.join(self.uri, *parts)

    def is_begun(self) -> bool:
        """Whether a run of the stage has begun here."""
        return storage.is_file(self.path(PROVENANCE))

    def state(
        self, config: Any, inputs: Mapping[str, str], accept_changes: bool = False
    ) -> StageState:
        """How far this stage is, for exactly this config and these inputs.

        Args:
            config: The stage's config. Fields marked ``may_change()`` (workers, logging ...) do not
                matter. Where a field marked ``may_grow()`` (steps) differs, a complete stage
                counts as partial.
            inputs: Name -> hash of what it reads.
            accept_changes: Whether another config or other inputs are no error.

        Raises:
            ConfigError: The folder holds a run of another config or other inputs.
        """
        if not self.is_begun():
            return "new"
        if not accept_changes and (changes := self.changes(config, inputs)):
            raise ConfigError(
                f"{self.uri} was made with {_what(changes)}: {'; '.join(map(str, changes))}. "
                "Use another --run-name, or delete that folder to make it anew."
            )
        if not storage.is_file(self.path(SUMMARY)):
            return "partial"
        return "complete" if self.begun().get("extent") == extent_of(config) else "partial"

    def changes(self, config: Any, inputs: Mapping[str, str]) -> "list[Change]":
        """How config and inputs differ from those of the run that the folder holds."""
        begun = self.begun()
        return [
            *_changes(begun["identity"], _as_stored(identity_of(config)), "config"),
            *_changes(begun["inputs"], dict(inputs), "inputs"),
        ]

    def begin(
        self,
        config: Any,
        inputs: Mapping[str, str],
        accepted: "Sequence[Change]" = (),
        reached: Mapping[str, Any] | None = None,
    ) -> None:
        """Records what is about to run, and takes back an earlier ``summary.json``.

        Args:
            config: The stage's config.
            inputs: Name -> hash of what it reads.
            accepted: Changes that the user has accepted. They are added to those before.
            reached: How far the stage was when they were made, e.g. ``{"step": 500}``.
        """
        storage.delete(self.path(SUMMARY))
        self.record(config, inputs, accepted, reached)

    def record(
        self,
        config: Any,
        inputs: Mapping[str, str],
        accepted: "Sequence[Change]" = (),
        reached: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes ``config.yaml`` and ``provenance.json`` alone. For the arguments see ``begin``."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        before = self.begun().get("accepted_changes", []) if self.is_begun() else []
        changes = [{"at": now, **(reached or {}), **asdict(change)} for change in accepted]
        begun = {
            "stage": self.name,
            "begun_at": now,
            "inputs": dict(inputs),
            **provenance(),
            "accepted_changes": [*before, *changes],
            "identity": identity_of(config),
            "extent": extent_of(config),
        }
        storage.write_text(self.path("config.yaml"), config_to_yaml(config))
        storage.write_text(self.path(PROVENANCE), strict_json.dumps(begun, indent=1))

    def finish(self, summary: dict[str, Any]) -> None:
        """Marks the stage complete. The last write of every stage."""
        storage.write_text(self.path(SUMMARY), strict_json.dumps(summary, indent=1))

    def summary(self) -> dict[str, Any]:
        """What ``finish`` stored.

        Raises:
            ConfigError: The stage is not complete, with the job that completes it.
        """
        if not storage.is_file(self.path(SUMMARY)):
            raise ConfigError(
                f"Stage '{self.name}' is not complete in {self.uri}: summary.json is missing. "
                "Run its job first, with the same --run-name and --storage."
            )
        return json.loads(storage.read_text(self.path(SUMMARY)))

    def fingerprint(self) -> str:
        """Hash of what a complete stage made; later stages record it as an input.

        A model, a shard set or a latent set carries a hash of its content. For other stages config
        and inputs stand for what was made of them.
        """
        self.summary()
        if (content := content_hash(self.uri)) is not None:
            return content
        begun = self.begun()
        return fingerprint([begun["inputs"], begun["identity"], begun.get("extent")])

    def begun(self) -> dict[str, Any]:
        """``provenance.json`` of the run that the folder holds."""
        return json.loads(storage.read_text(self.path(PROVENANCE)))


@dataclass(frozen=True)
class Change:
    """One value of a stage's config or inputs that is another than before."""

    field: str
    """E.g. ``train.optim.lr``; of an input, its name."""
    was: Any
    now: Any
    part: Literal["config", "inputs"]

    def __str__(self) -> str:
        return f"{self.field} was {self.was!r}, now {self.now!r}"


def fingerprint(value: Any) -> str:
    """Short hash of anything JSON can hold."""
    return hashlib.sha256(strict_json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(config: Any) -> Any:
    """The config without what a resumed run may change."""
    return _without(config, ("may_change", "may_grow"))


def recipe_of(config: Any) -> Any:
    """All of the config that decides what is made: two equal recipes make the same."""
    return _without(config, ("may_change",))


def extent_of(config: Any) -> dict[str, Any]:
    """How far a run goes: dotted name -> value of the fields marked ``may_grow()``."""
    found: dict[str, Any] = {}
    if is_dataclass(config) and not isinstance(config, type):
        for f in fields(config):
            value = getattr(config, f.name)
            if f.metadata.get("may_grow"):
                found[f.name] = config_to_dict(value)
            elif not f.metadata.get("may_change"):
                found |= {f"{f.name}.{name}": v for name, v in extent_of(value).items()}
    elif isinstance(config, list | tuple):
        for index, item in enumerate(config):
            found |= {f"{index}.{name}": v for name, v in extent_of(item).items()}
    return found


def _without(config: Any, marks: Sequence[str]) -> Any:
    if is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: _without(getattr(config, f.name), marks)
            for f in fields(config)
            if not any(f.metadata.get(mark) for mark in marks)
        }
    if isinstance(config, list | tuple):
        return [_without(value, marks) for value in config]
    return config_to_dict(config)


def _as_stored(value: Any) -> Any:
    return json.loads(strict_json.dumps(value))


def _changes(stored: Any, given: Any, part: Literal["config", "inputs"]) -> list[Change]:
    return list(_differences(stored, given, part, ""))


def _differences(
    stored: Any, given: Any, part: Literal["config", "inputs"], where: str
) -> Iterator[Change]:
    if stored == given:
        return
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in dict.fromkeys([*stored, *given]):
            inner = f"{where}.{key}".lstrip(".")
            yield from _differences(stored.get(key), given.get(key), part, inner)
    else:
        yield Change(where, stored, given, part)


def _what(changes: Sequence[Change]) -> str:
    parts = {change.part for change in changes}
    return " and ".join(words for part, words in _WORDS.items() if part in parts)
