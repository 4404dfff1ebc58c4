"""YAML + dotlist overrides -> one frozen dataclass. The only file that imports OmegaConf.

A config is a tree of frozen ``kw_only`` dataclasses. ``choice(REGISTRY)`` marks a section whose
dataclass is picked by the section's own ``name`` key; it works at any depth and inside tuples.
Past ``load_config`` nothing sees a ``DictConfig``.
"""

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lafp.registry import Registry

T = TypeVar("T")
_YAML_WORDS = {False: ("off", "no", "false"), True: ("on", "yes", "true")}


class ConfigError(ValueError):
    """A config that its user must mend. The message says where, what came and what was expected."""


def choice(registry: Registry, **kwargs: Any) -> Any:
    """A section (or a tuple of sections) whose dataclass ``registry`` picks by its ``name`` key.

    Annotate the field ``Any`` for one section, ``tuple[Any, ...]`` for several. Keyword arguments
    go to ``dataclasses.field``.
    """
    return field(metadata={"registry": registry}, **kwargs)


def may_change(**kwargs: Any) -> Any:
    """A field that says how the work is done (workers, logging, cache), not what is made.

    It may differ between two starts, and is no part of what a stage is.
    """
    return field(metadata={"may_change": True}, **kwargs)


def may_grow(**kwargs: Any) -> Any:
    """A field that says how far a run goes (``num_steps``): a resumed run may change it.

    A run that went further is another result, for all who read it.
    """
    return field(metadata={"may_grow": True}, **kwargs)


def load_config(schema: type[T], path: str | Path, overrides: Sequence[str] = ()) -> T:
    """Reads ``path``, applies ``overrides``, and checks every key and type against ``schema``.

    Args:
        schema: The frozen dataclass to build, e.g. ``TrainLamConfig``.
        path: A YAML file. ``extends: other.yaml`` in the file, or in any section of it, names a
            parent for that section, relative to the file.
        overrides: Dotlist items, e.g. ``["optim.lr=1e-4", "objective.name=laom"]``. Last one wins.
            ``sources.0.uri=x`` changes one element of a list, ``sources.*.uri=x`` all of them.

    Raises:
        ConfigError: The file is missing or no YAML mapping, an override has no ``=``, a key is
            unknown or missing, or a value has the wrong type or is out of range.
    """
    raw = _merge(schema, _load_yaml(schema, Path(path)), _parse_overrides(overrides))
    try:
        raw = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from None
    assert isinstance(raw, dict)
    return config_from_dict(schema, raw)


def config_from_dict(schema: type[T], raw: Mapping[Any, Any]) -> T:
    """Builds ``schema`` from plain containers, e.g. a config stored with a finished run.

    Raises:
        ConfigError: As for ``load_config``.
    """
    return _build(schema, raw, where="")


def with_overrides(config: T, overrides: Sequence[str]) -> T:
    """A copy of a config with dotlist overrides applied, as ``load_config`` applies them.

    Raises:
        ConfigError: As for ``load_config``.
    """
    schema = type(config)
    raw = _merge(schema, config_to_dict(config), _parse_overrides(overrides))
    return config_from_dict(schema, raw)


def config_to_dict(config: Any) -> Any:
    """The inverse of ``config_from_dict``: dicts, lists and scalars, ready for YAML or JSON."""
    if is_dataclass(config) and not isinstance(config, type):
        return {f.name: config_to_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, Mapping):
        return {key: config_to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [config_to_dict(value) for value in config]
    return config


def config_to_yaml(config: Any) -> str:
    """The resolved config as YAML, keys in the order of the dataclass."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------------------------------------
# Reading


def _load_yaml(schema: type, path: Path, seen: tuple[Path, ...] = ()) -> dict[Any, Any]:
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `extends` goes in a circle.")
    if not path.is_file():
        raise ConfigError(f"No config file at {path}." + _near_files(path))
    try:
        # OmegaConf's loader, not PyYAML's: it reads 1e-4 as a number.
        loaded = OmegaConf.load(path)
        raw = OmegaConf.to_container(loaded, resolve=False)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}.")
    return _resolve_extends(schema, raw, path.parent, (*seen, path.resolve()))


def _resolve_extends(schema: Any, raw: Any, folder: Path, seen: tuple[Path, ...]) -> Any:
    """Merges every mapping with the file that its ``extends`` names, children first."""
    if isinstance(raw, list):
        return [_resolve_extends(schema, item, folder, seen) for item in raw]
    if not isinstance(raw, dict):
        return raw
    known = _fields_with_types(schema) if _is_section(schema) else {}
    resolved = {
        key: _resolve_extends(
            _section_of(known[key][1]) if key in known else None, value, folder, seen
        )
        for key, value in raw.items()
    }
    parent = resolved.pop("extends", None)
    if parent is None:
        return resolved
    return _merge(schema, _load_yaml(schema, folder / str(parent), seen), resolved)


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    names = sorted(p.name for p in path.parent.glob("*.yaml"))
    return f" {path.parent} holds: {', '.join(names)}." if names else ""


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key:  # OmegaConf would silently read a bare "key" as key=null.
            raise ConfigError(f"Override {item!r} has no '='. Write it as section.key=value.")
    try:
        raw = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=False)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"Overrides {list(overrides)}: {_first_line(error)}") from None
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


# ---------------------------------------------------------------------------------------------
# Merging. It follows the schema, because only the schema knows which `name` picks a class.


def _merge(schema: Any, base: Any, over: Any, f: Field | None = None) -> Any:
    if isinstance(base, list) and isinstance(over, Mapping):
        return _merge_elements(schema, base, over, f)
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    registry = f.metadata.get("registry") if f else None
    if registry is not None:
        if "name" in over and over["name"] != base.get("name"):
            return dict(over)  # another class: the old one's keys mean nothing to it
        name = base.get("name")
        schema = registry.get(name).Config if name in registry.names() else None
    section_fields = _fields_with_types(schema) if _is_section(schema) else {}
    merged = dict(base)
    for key, value in over.items():
        child, child_type = section_fields.get(key, (None, None))
        merged[key] = (
            _merge(_section_of(child_type), base[key], value, child) if key in base else value
        )
    return merged


def _merge_elements(schema: Any, base: list[Any], over: Mapping[str, Any], f: Any) -> list[Any]:
    merged = list(base)
    for key, value in over.items():
        index = int(key) if str(key).isdigit() else -1
        if key != "*" and not 0 <= index < len(base):
            where = f.name if f else "the list"
            raise ConfigError(f"{where}.{key}: expected * or an index from 0 to {len(base) - 1}.")
        for i in range(len(base)) if key == "*" else [index]:
            merged[i] = _merge(schema, merged[i], value, f)
    return merged


# ---------------------------------------------------------------------------------------------
# Building. Sections are built bottom-up; leaves are checked by OmegaConf against their types.


def _build(schema: type[T], raw: Any, where: str) -> T:
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{where.rstrip('.') or 'The config'}: expected keys of {schema.__name__}, got {raw!r}."
        )
    known = _fields_with_types(schema)
    for key in raw:
        if key not in known:
            raise ConfigError(_unknown_key(f"{where}{key}", str(key), list(known), schema))
    values: dict[str, Any] = {}
    leaves: dict[str, tuple[Any, Any]] = {}
    for name, (f, hint) in known.items():
        if name not in raw:
            if f.default is MISSING and f.default_factory is MISSING:
                raise ConfigError(f"Key '{where}{name}' is missing: {schema.__name__} needs it.")
        elif _is_section(_section_of(hint)) or "registry" in f.metadata:
            values[name] = _build_section(f, hint, raw[name], f"{where}{name}")
        else:
            leaves[name] = (hint, raw[name])
    values |= _check_leaves(leaves, where)
    try:
        return schema(**values)
    except ConfigError:
        raise
    except ValueError as error:  # a range check in __post_init__
        raise ConfigError(f"{where.rstrip('.')}: {error}" if where else str(error)) from None


def _build_section(f: Field, hint: Any, raw: Any, where: str) -> Any:
    if raw is None:
        if not _allows_none(hint, f):
            raise ConfigError(f"{where}: expected a section, got null.")
        return None
    if _is_tuple(hint):
        if not isinstance(raw, list | tuple):
            raise ConfigError(f"{where}: expected a list of sections, got {raw!r}.")
        return tuple(_build_one(f, hint, item, f"{where}.{i}") for i, item in enumerate(raw))
    return _build_one(f, hint, raw, where)


def _build_one(f: Field, hint: Any, raw: Any, where: str) -> Any:
    registry = f.metadata.get("registry")
    if registry is None:
        return _build(_section_of(hint), raw, f"{where}.")
    if not isinstance(raw, Mapping) or "name" not in raw:
        raise ConfigError(
            f"{where}: needs a `name`, one of: {', '.join(registry.names())}. Got {raw!r}."
        )
    try:
        schema = registry.get(raw["name"]).Config
    except ValueError as error:
        raise ConfigError(f"{where}.name: {error}") from None
    return _build(schema, raw, f"{where}.")


def _check_leaves(leaves: Mapping[str, tuple[Any, Any]], where: str) -> dict[str, Any]:
    """Checks and converts values one at a time, so that an error names its own key."""
    values = {}
    for name, (hint, raw) in leaves.items():
        if isinstance(raw, bool):
            raw = _said_before_yaml(hint, raw, f"{where}{name}")
        is_plain = raw is None or isinstance(raw, str | int | float)
        check = _check_plain_leaf if is_plain else _check_leaf
        try:
            values[name] = check(name, hint, raw)
        except OmegaConfBaseException as error:
            expected = getattr(hint, "__name__", None) if not get_args(hint) else None
            raise ConfigError(
                f"{where}{name}: expected {expected or hint}, got {raw!r}. {_first_line(error)}"
            ) from None
    return values


def _said_before_yaml(hint: Any, raw: bool, where: str) -> Any:
    """The word that YAML took for a truth value, where text is wanted: it reads ``off`` as false.

    Raises:
        ConfigError: Any text is allowed there, so nobody knows which word it was.
    """
    hint = _non_none(hint)
    if get_origin(hint) is Literal:
        meant = [word for word in get_args(hint) if word in _YAML_WORDS[raw]]
        return meant[0] if len(meant) == 1 else raw
    if hint is str:
        words = ", ".join(_YAML_WORDS[raw])
        raise ConfigError(
            f"{where}: expected text, got {raw}. YAML reads {words} as {raw} unless the word is "
            f"quoted: write {where.rpartition('.')[2]}: 'word' in a file, and "
            f"\"{where}='word'\" on the command line."
        )
    return raw


def _check_leaf(name: str, hint: Any, raw: Any) -> Any:
    holder = make_dataclass("Leaf", [(name, hint)])
    checked = OmegaConf.merge(OmegaConf.structured(holder), {name: raw})
    return _freeze(getattr(OmegaConf.to_object(checked), name))


# The runs of a study differ in a few values of hundreds; checking one takes a millisecond.
_check_plain_leaf = lru_cache(maxsize=65_536, typed=True)(_check_leaf)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------------------------------
# Types


def _fields_with_types(schema: Any) -> dict[str, tuple[Field, Any]]:
    hints = get_type_hints(schema)
    return {f.name: (f, hints[f.name]) for f in fields(schema)}


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _non_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def _section_of(hint: Any) -> Any:
    """The dataclass inside ``X``, ``X | None``, ``tuple[X, ...]``; other hints unchanged."""
    hint = _non_none(hint)
    return _non_none(get_args(hint)[0]) if _is_tuple(hint) and get_args(hint) else hint


def _is_tuple(hint: Any) -> bool:
    return get_origin(_non_none(hint)) is tuple


def _allows_none(hint: Any, f: Field) -> bool:
    return f.default is None or (
        get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    )


def _unknown_key(full_key: str, key: str, known: list[str], schema: type) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean: '{close[0]}'?" if close else f" Its keys: {', '.join(known)}."
    return f"Key '{full_key}' is not in {schema.__name__}.{hint}"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
