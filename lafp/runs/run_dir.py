"""Reads and writes the folders of a run: ``<storage>/<run>/<stage>/...``.

Every stage folder holds ``config.yaml`` (resolved), ``provenance.json`` (versions, git revision,
inputs), ``metrics.jsonl`` and, once complete, ``summary.json``. A stage is complete if and only if
its summary exists. The classes keep no content: another process may write while one reads.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import yaml

from lafp import storage
from lafp.config import ConfigError, config_to_yaml
from lafp.runs.content import content_hash
from lafp.runs.identity import Change, changes_since, extent_of, fingerprint, identity_of, in_words
from lafp.runs.provenance import provenance
from lafp.storage import strict_json

SHARED_STAGES = "stages.json"
"""File in ``<study>/runs/<run>/``: name of a shared stage -> its folder below ``<study>/``."""

CONFIG, PROVENANCE, SUMMARY = "config.yaml", "provenance.json", "summary.json"
StageState = Literal["new", "partial", "complete"]
T = TypeVar("T")


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
            shared = strict_json.read(dict[str, str], path) if storage.is_file(path) else {}
            for folder in shared.values():  # of a stranger's run they might lead anywhere
                check_folder_name(folder, f"A folder in {path}")
        study = storage.join(self.uri).rsplit("/", 2)[0]
        return {name: storage.join(study, folder) for name, folder in shared.items()}

    @property
    def name(self) -> str:
        """Name of the run: the last part of its URI."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def stages_below(self, folder: str) -> "list[StageDir]":
        """Returns the stages ``folder/...`` that exist or are shared, by name, videos first."""
        own = (f"{folder}/{name}" for name in storage.list_folders(storage.join(self.uri, folder)))
        shared = (name for name in self.shared_stages if name.startswith(f"{folder}/"))
        names = sorted({*own, *shared}, key=lambda name: (name != "shards/videos", name))
        return [self.stage(name) for name in names]

    def begun_stages(self) -> "list[StageDir]":
        """Returns the stages that a report tells of, if they have begun, in their order."""
        shards, policies, decoders = map(self.stages_below, ("shards", "policy", "decoder"))
        first, lam, last = map(self.stage, ("demonstrations", "lam", "evaluation"))
        stages = (first, *shards, lam, *policies, *decoders, last)
        return [stage for stage in stages if stage.is_begun()]

    def complete(self, name: str) -> "StageDir | None":
        """Returns the stage called ``name`` if it is complete."""
        stage = self.stage(name)
        return stage if stage.is_complete() else None

    def complete_below(self, folder: str) -> "list[StageDir]":
        """Returns the complete stages ``folder/...``, e.g. all policies."""
        return [stage for stage in self.stages_below(folder) if stage.is_complete()]


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

    def has(self, *parts: str) -> bool:
        """Tells whether the folder holds that file."""
        return storage.is_file(self.path(*parts))

    def is_begun(self) -> bool:
        """Tells whether a run of the stage has begun in this folder."""
        return self.has(PROVENANCE)

    def is_complete(self) -> bool:
        """Tells whether the stage has written its summary."""
        return self.has(SUMMARY)

    def state(
        self, config: object, inputs: Mapping[str, str], accept_changes: bool = False
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
                f"{self.uri} was made with {in_words(changes)}. "
                "Use another --run-name, or delete that folder to make it anew."
            )
        is_complete = self.is_complete() and self.provenance().get("extent") == extent_of(config)
        return "complete" if is_complete else "partial"

    def changes(self, config: object, inputs: Mapping[str, str]) -> list[Change]:
        """Lists how config and inputs differ from those of the run in this folder."""
        return changes_since(self.provenance(), config, inputs)

    def begin(
        self,
        config: object,
        inputs: Mapping[str, str],
        accepted: Sequence[Change] = (),
        reached: Mapping[str, object] | None = None,
    ) -> None:
        """Records config and inputs before the work, and deletes an earlier ``summary.json``.

        Args:
            config: The stage's config.
            inputs: Name -> hash of each input of the stage.
            accepted: Changes that the user has accepted. They are appended to earlier ones.
            reached: Progress of the stage when the user accepted them, e.g. ``{"step": 500}``.
        """
        # The summary goes first. A run that is killed from here on must not look complete.
        storage.delete(self.path(SUMMARY))
        self.record(config, inputs, accepted, reached)

    def record(
        self,
        config: object,
        inputs: Mapping[str, str],
        accepted: Sequence[Change] = (),
        reached: Mapping[str, object] | None = None,
    ) -> None:
        """Writes only ``config.yaml`` and ``provenance.json``. See ``begin`` for the arguments."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        before = self.provenance().get("accepted_changes", []) if self.is_begun() else []
        changes = [{"at": now, **(reached or {}), **vars(change)} for change in accepted]
        begun = {
            "stage": self.name,
            "begun_at": now,
            "inputs": dict(inputs),
            **provenance(),
            "accepted_changes": [*before, *changes],
            "identity": identity_of(config),
            "extent": extent_of(config),
        }
        storage.write_text(self.path(CONFIG), config_to_yaml(config))
        # Written last, because its presence says that the stage has begun (`is_begun`).
        strict_json.write(self.path(PROVENANCE), begun, indent=1)

    def has_read(self, content: str) -> bool:
        """Tells whether an input of the run in this folder had this hash."""
        return content in self.provenance()["inputs"].values()

    def replace_input(self, was: str, now: str) -> None:
        """Records another hash of an input that changed and leaves this stage's result right."""
        begun = self.provenance()
        inputs = {name: now if hash_ == was else hash_ for name, hash_ in begun["inputs"].items()}
        strict_json.write(self.path(PROVENANCE), begun | {"inputs": inputs}, indent=1)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Marks the stage complete. Every stage calls it last."""
        strict_json.write(self.path(SUMMARY), summary, indent=1)

    def summary(self) -> dict[str, Any]:
        """Reads the summary that ``finish`` stored.

        Raises:
            ConfigError: The stage is not complete.
        """
        if not self.is_complete():
            raise ConfigError(
                f"Stage '{self.name}' is not complete in {self.uri}: summary.json is missing. "
                "Run its job first, with the same --run-name and --storage."
            )
        return strict_json.read(dict[str, Any], self.path(SUMMARY))

    def once(self, name: str, kind: type[T], measure: Callable[[], T]) -> T:
        """Returns what is stored under ``name``; if there is nothing, measures and stores it.

        It is read back also by the start that wrote it, because JSON changes tuples and the type of
        keys.
        """
        if not self.has(name):
            strict_json.write(self.path(name), measure())
        return strict_json.read(kind, self.path(name))

    def fingerprint(self) -> str:
        """Hashes the result of a complete stage. Later stages record the hash as an input.

        A model, a shard set or a latent set is hashed by its content. For other stages, their
        config and inputs are hashed instead.
        """
        self.summary()
        if (content := content_hash(self.uri)) is not None:
            return content
        begun = self.provenance()
        return fingerprint([begun["inputs"], begun["identity"], begun.get("extent")])

    def provenance(self) -> dict[str, Any]:
        """Reads ``provenance.json`` of the run in this folder.

        Raises:
            DamagedError: It lacks what every stage records.
        """
        found = strict_json.read(dict[str, Any], self.path(PROVENANCE))
        if "identity" not in found or not isinstance(found.get("inputs"), dict):
            raise strict_json.DamagedError(
                f"{self.path(PROVENANCE)} is damaged: it has no identity or inputs. Copy "
                "its folder again, or delete the folder and run the job again."
            )
        return found

    def config_yaml(self) -> str:
        """Reads the resolved config, as written."""
        return storage.read_text(self.path(CONFIG))

    def config(self) -> dict[str, Any]:
        """Reads the resolved config."""
        return yaml.safe_load(self.config_yaml()) or {}
