"""Reads and writes the folders of a run: ``<storage>/<run>/<stage>/...``.

Every stage folder holds ``config.yaml`` (resolved), ``provenance.json`` (versions, git revision,
inputs), ``metrics.jsonl`` and, once complete, ``summary.json``. A stage is complete if and only if
its summary exists.
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
"""File in ``<study>/runs/<run>/``: name of a shared stage -> its folder below ``<study>/``."""

PROVENANCE, SUMMARY = "provenance.json", "summary.json"
StageState = Literal["new", "partial", "complete"]
_WORDS = {"config": "another config", "inputs": "other inputs"}


@dataclass(frozen=True)
class RunDir:
    """The folder of one run."""

    uri: str
    shared: Mapping[str, str] | None = None
    """Future content of ``stages.json``, if it is known and the file is not written yet."""
    accept_changes: bool = False
    """Whether stages may resume although their config or inputs have changed."""

    def stage(self, name: str) -> "StageDir":
        """Returns the stage called e.g. ``lam`` or ``policy/latent_flow``, own or shared.

        Raises:
            ConfigError: The name does not name a folder below the run's folder.
        """
        if name:
            check_folder_name(name, "The stage's name")
        return StageDir(self.shared_stages.get(name) or storage.join(self.uri, name), name)

    @cached_property
    def shared_stages(self) -> dict[str, str]:
        """Name -> folder of the stages that this run shares with other runs of its study."""
        shared = self.shared
        if shared is None:
            path = storage.join(self.uri, SHARED_STAGES)
            shared = json.loads(storage.read_text(path)) if storage.is_file(path) else {}
        study = storage.join(self.uri).rsplit("/", 2)[0]
        return {name: storage.join(study, folder) for name, folder in shared.items()}

    def stages_below(self, folder: str) -> list[str]:
        """Returns the sorted names of the stages ``folder/...`` that exist or are shared."""
        own = (f"{folder}/{name}" for name in storage.list_folders(storage.join(self.uri, folder)))
        shared = (name for name in self.shared_stages if name.startswith(f"{folder}/"))
        return sorted({*own, *shared})


def check_folder_name(name: str, what: str) -> None:
    """Checks that a name from the user is a relative path of visible folders.

    Args:
        name: The name, which may contain ``/``.
        what: Describes the name in the error.

    Raises:
        ConfigError: The name is no such path.
    """
    for part in name.split("/"):
        if not part or part[0] in ".~" or not part.isprintable() or len(part.encode()) > 255:
            raise ConfigError(
                f"{what} is {name!r}, which must name a folder. Use letters, digits, '_', '-' and "
                "'.'; no part of it may be empty, begin with '.' or '~', or be longer than 255 "
                "bytes."
            )


@dataclass(frozen=True)
class StageDir:
    """The folder of one stage, with its records from start to end."""

    uri: str
    name: str

    def path(self, *parts: str) -> str:
        """Returns the URI of a file in the folder."""
        return storage.join(self.uri, *parts)

    def is_begun(self) -> bool:
        """Tells whether a run of the stage has begun in this folder."""
        return storage.is_file(self.path(PROVENANCE))

    def state(
        self, config: Any, inputs: Mapping[str, str], accept_changes: bool = False
    ) -> StageState:
        """Tells how far this stage is, for exactly this config and these inputs.

        Args:
            config: The stage's config. Fields marked ``may_change()`` (workers, logging ...) do not
                matter. If a field marked ``may_grow()`` (steps) differs, a complete stage counts
                as partial.
            inputs: Name -> hash of each input of the stage.
            accept_changes: Whether a changed config or changed inputs are allowed.

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
        """Lists how config and inputs differ from those of the run in this folder."""
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
        """Records config and inputs before the work, and deletes an earlier ``summary.json``.

        Args:
            config: The stage's config.
            inputs: Name -> hash of each input of the stage.
            accepted: Changes that the user has accepted. They are appended to earlier ones.
            reached: Progress of the stage when the user accepted them, e.g. ``{"step": 500}``.
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
        """Writes only ``config.yaml`` and ``provenance.json``. See ``begin`` for the arguments."""
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
        """Marks the stage complete. Every stage calls it last."""
        storage.write_text(self.path(SUMMARY), strict_json.dumps(summary, indent=1))

    def summary(self) -> dict[str, Any]:
        """Reads the summary that ``finish`` stored.

        Raises:
            ConfigError: The stage is not complete.
        """
        if not storage.is_file(self.path(SUMMARY)):
            raise ConfigError(
                f"Stage '{self.name}' is not complete in {self.uri}: summary.json is missing. "
                "Run its job first, with the same --run-name and --storage."
            )
        return json.loads(storage.read_text(self.path(SUMMARY)))

    def fingerprint(self) -> str:
        """Hashes the result of a complete stage. Later stages record the hash as an input.

        A model, a shard set or a latent set is hashed by its content. For other stages, their
        config and inputs are hashed instead.
        """
        self.summary()
        if (content := content_hash(self.uri)) is not None:
            return content
        begun = self.begun()
        return fingerprint([begun["inputs"], begun["identity"], begun.get("extent")])

    def begun(self) -> dict[str, Any]:
        """Reads ``provenance.json`` of the run in this folder."""
        return json.loads(storage.read_text(self.path(PROVENANCE)))


@dataclass(frozen=True)
class Change:
    """One value of a stage's config or inputs that has changed."""

    field: str
    """The config key, e.g. ``train.optim.lr``, or the name of the input."""
    was: Any
    now: Any
    part: Literal["config", "inputs"]

    def __str__(self) -> str:
        return f"{self.field} was {self.was!r}, now {self.now!r}"


def fingerprint(value: Any) -> str:
    """Returns a short hash of any value that JSON can represent."""
    return hashlib.sha256(strict_json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(config: Any) -> Any:
    """Returns the config without the fields that a resumed run may change."""
    return _without(config, ("may_change", "may_grow"))


def recipe_of(config: Any) -> Any:
    """Returns the part of a config that decides the result: equal recipes, equal results."""
    return _without(config, ("may_change",))


def extent_of(config: Any) -> dict[str, Any]:
    """Maps the dotted name of every field marked ``may_grow()`` to its value."""
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
