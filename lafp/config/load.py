"""Builds one frozen dataclass from YAML and dotlist overrides.

A config is a tree of frozen ``kw_only`` dataclasses. ``choice(REGISTRY)`` marks a section whose
dataclass is picked by the section's own ``name`` key; it works at any depth and inside tuples.
``load_config`` returns plain dataclasses, so no code outside this package sees a ``DictConfig``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lafp.config.errors import ConfigError
from lafp.config.keys import check_keys
from lafp.config.leaves import check_leaves
from lafp.config.read import overridden, read_config
from lafp.config.schema import (
    allows_none,
    fields_with_types,
    inner_type,
    is_config_class,
    is_tuple,
    section_of,
)

T = TypeVar("T")


def load_config(schema: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Reads ``path``, applies ``overrides``, and checks every key and type against ``schema``.

    Args:
        schema: The frozen dataclass to build, e.g. ``TrainLamConfig``.
        path: A YAML file. ``extends: other.yaml`` in the file, or in any section of it, names a
            file whose values that section inherits. Its path is relative to this file.
        overrides: Dotlist items, e.g. ``["optim.lr=1e-4", "objective.name=laom"]``. Last one wins.
            ``sources.0.uri=x`` changes one element of a list, ``sources.*.uri=x`` all of them.

    Raises:
        ConfigError: The file is missing or not a YAML mapping, an override has no ``=``, a key is
            unknown or missing, or a value has the wrong type or is out of range.
    """
    return config_from_dict(schema, read_config(section_of(schema), path, overrides))


def config_from_dict(schema: type[T], raw: Mapping[Any, Any]) -> T:
    """Builds ``schema`` from plain containers, e.g. a config stored with a finished run.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type or is out of range.
    """
    check_keys(section_of(schema), raw)
    return _build(schema, raw, where="")


def with_overrides(config: T, overrides: Sequence[str]) -> T:
    """Returns a copy of a config with dotlist overrides applied, as ``load_config`` does.

    Raises:
        ConfigError: An override has no ``=``, or a key or value is wrong.
    """
    schema = type(config)
    raw = overridden(section_of(schema), config_to_dict(config), overrides)
    return config_from_dict(schema, raw)


def config_to_dict(config: Any) -> Any:
    """Turns a config into dicts, lists and scalars: the inverse of ``config_from_dict``."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: config_to_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, Mapping):
        return {key: config_to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [config_to_dict(value) for value in config]
    return config


def config_to_yaml(config: Any) -> str:
    """Writes the resolved config as YAML, with keys in the order of the dataclass."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------------------------------------
# Building, from the innermost sections outwards


def _build(schema: type[T], raw: Any, where: str) -> T:
    values: dict[str, Any] = {}
    leaves: dict[str, tuple[Any, Any]] = {}
    for name, (f, hint) in fields_with_types(schema).items():
        if name not in raw:
            continue
        if is_config_class(inner_type(hint)) or "registry" in f.metadata:
            values[name] = _build_section(f, hint, raw[name], f"{where}{name}")
        else:
            leaves[name] = (hint, raw[name])
    values |= check_leaves(leaves, where)
    try:
        return schema(**values)
    except ConfigError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:  # a range check in __post_init__
        raise ConfigError(f"{where.rstrip('.')}: {error}" if where else str(error)) from None


def _build_section(f: Field, hint: Any, raw: Any, where: str) -> Any:
    if raw is None:
        if not allows_none(hint, f):
            raise ConfigError(f"{where}: expected a section, got null. Give it keys.")
        return None
    if is_tuple(hint):
        return tuple(_build_one(f, hint, item, f"{where}.{i}") for i, item in enumerate(raw))
    return _build_one(f, hint, raw, where)


def _build_one(f: Field, hint: Any, raw: Any, where: str) -> Any:
    registry = f.metadata.get("registry")
    schema = registry.get(raw["name"]).Config if registry else inner_type(hint)
    return _build(schema, raw, f"{where}.")
