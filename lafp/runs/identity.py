"""Decides whether a stage is the one that was asked for: hashes of configs, and what differs."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeGuard

from lafp.config import config_to_dict
from lafp.storage import strict_json

_WORDS = {"config": "another config", "inputs": "other inputs"}


@dataclass(frozen=True)
class Change:
    """One value of a stage's config or inputs that has changed."""

    field: str
    """The config key, e.g. ``train.optim.lr``, or the name of the input."""
    was: object
    now: object
    part: Literal["config", "inputs"]

    def __str__(self) -> str:
        return f"{self.field} was {self.was!r}, now {self.now!r}"


def fingerprint(value: object) -> str:
    """Returns a short hash of any value that JSON can represent."""
    return hashlib.sha256(strict_json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(config: object) -> Any:
    """Returns the config without the fields that a resumed run may change."""
    return _without(config, ("may_change", "may_grow"))


def recipe_of(config: object) -> Any:
    """Returns the part of a config that decides the result: equal recipes, equal results."""
    return _without(config, ("may_change",))


def extent_of(config: object) -> dict[str, object]:
    """Maps the dotted name of every field marked ``may_grow()`` to its value."""
    found: dict[str, object] = {}
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


def _without(config: object, marks: Sequence[str]) -> Any:
    if is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: _without(getattr(config, f.name), marks)
            for f in fields(config)
            if not any(f.metadata.get(mark) for mark in marks)
        }
    if isinstance(config, list | tuple):
        return [_without(value, marks) for value in config]
    return config_to_dict(config)


def changes_since(
    provenance: Mapping[str, Any], config: object, inputs: Mapping[str, str]
) -> list[Change]:
    """Lists how config and inputs differ from those that a stage recorded when it was begun.

    An input is known by its content, so its path may change while its content stays.
    """
    # Compared in the form of JSON, in which tuples have become lists.
    identity = json.loads(strict_json.dumps(identity_of(config)))
    of_config = _differences(provenance["identity"], identity, "config")
    stored = provenance["inputs"]
    same = {name for name, content in inputs.items() if stored.get(name) == content}
    return [
        *(change for change in of_config if change.field not in same),
        *_differences(stored, dict(inputs), "inputs"),
    ]


def _differences(
    stored: object, given: object, part: Literal["config", "inputs"], where: str = ""
) -> Iterator[Change]:
    if stored == given:
        return
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in dict.fromkeys([*stored, *given]):
            inner = f"{where}.{key}".lstrip(".")
            yield from _differences(stored.get(key), given.get(key), part, inner)
    elif _are_sections(stored) and _are_sections(given) and len(stored) == len(given):
        for index, (before, after) in enumerate(zip(stored, given, strict=True)):
            yield from _differences(before, after, part, f"{where}.{index}")
    else:
        yield Change(where, stored, given, part)


def _are_sections(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def in_words(changes: Sequence[Change]) -> str:
    """Says what differs, and how."""
    parts = {change.part for change in changes}
    what = " and ".join(words for part, words in _WORDS.items() if part in parts)
    return f"{what}: {'; '.join(map(str, changes))}"
