"""Builds one frozen dataclass from YAML and dotlist overrides. Only this file imports OmegaConf.

A config is a tree of frozen ``kw_only`` dataclasses. ``choice(REGISTRY)`` marks a section whose
dataclass is picked by the section's own ``name`` key; it works at any depth and inside tuples.
``load_config`` returns plain dataclasses, so no other code sees a ``DictConfig``.
"""

import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lafp.config.errors import ConfigError
from lafp.config.keys import check_keys
from lafp.config.merge import merge
from lafp.config.registry import Registry
from lafp.config.source import Choices, Key, Section

T = TypeVar("T")
_SECTIONS: dict[type, Section] = {}
# Errors of PyYAML and OmegaConf for text that stands for no value.
_NO_VALUE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_YAML_WORDS = {False: ("off", "no", "false"), True: ("on", "yes", "true")}


def choice(registry: Registry, *, may_change: bool = False, **kwargs: Any) -> Any:
    """Marks a section, or a tuple of sections, whose ``name`` key picks a class of ``registry``.

    Annotate the field ``Choice``, or the base of the configs if they have one; as a tuple for
    several sections. ``may_change`` is like the marker of this name. Other keyword arguments go to
    ``dataclasses.field``.
    """
    return field(metadata={"registry": registry, "may_change": may_change}, **kwargs)


def may_change(**kwargs: Any) -> Any:
    """Marks a field that does not affect the result, such as workers, logging and cache sizes.

    Its value may differ when a run is resumed, and is not part of a stage's identity.
    """
    return field(metadata={"may_change": True}, **kwargs)


def may_grow(**kwargs: Any) -> Any:
    """Marks a field that says how far a run goes, such as ``num_steps``.

    Its value may differ when a run is resumed. Later stages treat a run that went further as a
    different result.
    """
    return field(metadata={"may_grow": True}, **kwargs)


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


def read_config(
    section: Section, path: str | Path, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads ``path`` and applies ``overrides``, but checks no keys and no values.

    Raises:
        ConfigError: The file is missing or not a YAML mapping, or an override has no ``=``.
    """
    merged = merge(section, _load_yaml(section, Path(path)), _parse_overrides(overrides))
    _check_no_resolver(merged, str(path))
    try:
        raw = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except (OmegaConfBaseException, *_NO_VALUE) as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from None
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


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
    raw = merge(section_of(schema), config_to_dict(config), _parse_overrides(overrides))
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
# Reading


def _load_yaml(section: Section | None, path: Path, seen: tuple[Path, ...] = ()) -> dict[Any, Any]:
    try:
        is_folder, is_file = bool(path.name) and path.is_dir(), path.is_file()
    except (OSError, ValueError):  # no file can have this name
        is_folder = is_file = False
    if is_folder:
        raise ConfigError(f"{path} is a folder, where a config file is expected.{_names_in(path)}")
    if not is_file:
        raise ConfigError(f"No config file at {path}." + _near_files(path))
    if path.resolve() in seen:
        raise ConfigError(f"{path}: `extends` goes in a circle.")
    try:
        # OmegaConf's loader, not PyYAML's: it reads 1e-4 as a number.
        loaded = OmegaConf.load(path)
        raw = OmegaConf.to_container(loaded, resolve=False)
    except RecursionError:
        raise ConfigError(f"{path} is not readable as YAML: it is nested too deeply.") from None
    # PyYAML raises errors of many kinds for tags and numbers that it cannot build.
    except (OmegaConfBaseException, yaml.YAMLError, OSError, *_NO_VALUE) as error:
        # In one line: errors of PyYAML have several.
        words = " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable as YAML: {words}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}.")
    return _resolve_extends(section, raw, path.parent, (*seen, path.resolve()))


def _resolve_extends(
    section: Section | None, raw: Any, folder: Path, seen: tuple[Path, ...]
) -> Any:
    """Merges every mapping with the file that its ``extends`` names, innermost mappings first."""
    if isinstance(raw, list):
        return [_resolve_extends(section, item, folder, seen) for item in raw]
    if not isinstance(raw, dict):
        return raw
    known = section.keys if section else {}
    resolved = {
        key: _resolve_extends(known[key].section if key in known else None, value, folder, seen)
        for key, value in raw.items()
    }
    parent = resolved.pop("extends", None)
    if parent is None:
        return resolved
    return merge(section, _load_yaml(section, folder / str(parent), seen), resolved)


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    return _names_in(path.parent)


def _names_in(folder: Path) -> str:
    names = sorted(p.name for p in folder.glob("[!.]*.yaml"))
    return f" {folder} holds: {', '.join(names)}." if names else ""


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key:  # OmegaConf would silently read a bare "key" as key=null.
            missing = "key" if equals else "'='"
            raise ConfigError(f"Override {item!r} has no {missing}. Write it as section.key=value.")
    raw = _parse_dotlist(overrides)
    return {str(key): value for key, value in raw.items()}


def _parse_dotlist(overrides: Sequence[str]) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=False)
    except RecursionError:
        words = "it is nested too deeply"
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        words = getattr(error, "problem", None) or _first_line(error)
    if len(overrides) > 1:
        for item in overrides:
            _parse_dotlist([item])  # alone, so that the error names it
    which = ", ".join(map(repr, overrides))
    raise ConfigError(
        f"Override {which} cannot be read: {words}. Its value is YAML: put text with brackets, "
        "quotes, '#' or ': ' into quotes."
    ) from None


def _check_no_resolver(raw: Any, where: str) -> None:
    """Checks that no text asks OmegaConf for more than another key: ``${oc.env:HOME}`` does.

    Such a config, or one stored with a stranger's model, would read environment variables, and the
    result is stored with the run.

    Raises:
        ConfigError: One does.
    """
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            _check_no_resolver(value, f"{where}: {key}")
    elif isinstance(raw, list | tuple):
        for item in raw:
            _check_no_resolver(item, where)
    elif isinstance(raw, str) and "${" in raw:
        depth = 0
        for found in re.finditer(r"\$\{|\}|:", raw):
            depth += {"${": 1, "}": -1 if depth else 0, ":": 0}[found[0]]
            if found[0] == ":" and depth:
                raise ConfigError(
                    f"{where}: {raw!r} calls a resolver of OmegaConf, which configs may not. Only "
                    "${section.key} is allowed. Write the value, or give it on the command line."
                )


# ---------------------------------------------------------------------------------------------
# Building. Sections are built bottom-up; leaves are checked by OmegaConf against their types.


def _build(schema: type[T], raw: Any, where: str) -> T:
    values: dict[str, Any] = {}
    leaves: dict[str, tuple[Any, Any]] = {}
    for name, (f, hint) in _fields_with_types(schema).items():
        if name not in raw:
            continue
        if _is_section(_section_of(hint)) or "registry" in f.metadata:
            values[name] = _build_section(f, hint, raw[name], f"{where}{name}")
        else:
            leaves[name] = (hint, raw[name])
    values |= _check_leaves(leaves, where)
    try:
        return schema(**values)
    except ConfigError:
        raise
    except (ArithmeticError, TypeError, ValueError) as error:  # a range check in __post_init__
        raise ConfigError(f"{where.rstrip('.')}: {error}" if where else str(error)) from None


def _build_section(f: Field, hint: Any, raw: Any, where: str) -> Any:
    if raw is None:
        if not _allows_none(hint, f):
            raise ConfigError(f"{where}: expected a section, got null.")
        return None
    if _is_tuple(hint):
        return tuple(_build_one(f, hint, item, f"{where}.{i}") for i, item in enumerate(raw))
    return _build_one(f, hint, raw, where)


def _build_one(f: Field, hint: Any, raw: Any, where: str) -> Any:
    registry = f.metadata.get("registry")
    schema = registry.get(raw["name"]).Config if registry else _section_of(hint)
    return _build(schema, raw, f"{where}.")


def _check_leaves(leaves: Mapping[str, tuple[Any, Any]], where: str) -> dict[str, Any]:
    """Checks and converts values one at a time, so that an error names its own key."""
    values = {}
    for name, (hint, raw) in leaves.items():
        _check_no_resolver(raw, f"{where}{name}")
        if isinstance(raw, bool):
            raw = _word_behind_bool(hint, raw, f"{where}{name}")
        is_plain = raw is None or isinstance(raw, str | int | float)
        check = _check_plain_leaf if is_plain else _check_leaf
        try:
            values[name] = check(name, hint, raw)
        except (OmegaConfBaseException, *_NO_VALUE) as error:
            expected = getattr(hint, "__name__", None) if not get_args(hint) else None
            raise ConfigError(
                f"{where}{name}: expected {expected or hint}, got {raw!r}. {_first_line(error)}"
            ) from None
        if _holds_containers(hint, values[name]):
            raise ConfigError(f"{where}{name}: expected {hint}, got {raw!r}.")
        if words := _expected_number(name, values[name]):
            raise ConfigError(f"{where}{name}: expected {words}, got {raw!r}.")
    return values


def _word_behind_bool(hint: Any, raw: bool, where: str) -> Any:
    """Recovers the word of a text field that YAML read as a boolean, e.g. ``off`` as false.

    Raises:
        ConfigError: The field allows any text, so the word cannot be known.
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


def _holds_containers(hint: Any, value: Any) -> bool:
    """Says whether a list holds lists or mappings where plain values belong, as OmegaConf lets."""
    if get_origin(hint) is not tuple or get_origin(get_args(hint)[0]) is not None:
        return False
    return isinstance(value, tuple) and any(isinstance(v, tuple | Mapping) for v in value)


def _expected_number(name: str, value: Any) -> str | None:
    """Describes the number that a field should hold if no job can use ``value``; else None.

    The range checks of sections cannot find NaN, because every comparison with NaN is false.
    """
    if isinstance(value, tuple):
        return next((words for item in value if (words := _expected_number(name, item))), None)
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, int) and name.removesuffix("s").endswith("seed"):
        return None if 0 <= value < 1 << 32 else "a seed from 0 to 2^32 - 1"
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return "a number that an int64 holds"
    return None


def _check_leaf(name: str, hint: Any, raw: Any) -> Any:
    if isinstance(raw, list | tuple) and get_origin(hint) in (Union, types.UnionType):
        # OmegaConf takes no list where a number may stand too.
        hint = next((part for part in get_args(hint) if get_origin(part) is tuple), hint)
    # OmegaConf checks types only of dataclass fields, so each value gets a dataclass of its own.
    holder = make_dataclass("Leaf", [(name, hint)])
    checked = OmegaConf.merge(OmegaConf.structured(holder), {name: raw})
    return _freeze(getattr(OmegaConf.to_object(checked), name))


# The runs of a study differ in a few values of hundreds; checking one takes a millisecond.
_check_plain_leaf = lru_cache(maxsize=65_536, typed=True)(_check_leaf)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------------------------------
# Types


def section_of(schema: type) -> Section:
    """Describes a dataclass as ``lafp.config.source`` would describe it from its source file."""
    if schema in _SECTIONS:
        return _SECTIONS[schema]
    keys = {}
    for name, (f, hint) in _fields_with_types(schema).items():
        registry, inner = f.metadata.get("registry"), _section_of(hint)
        is_section = registry is None and _is_section(inner)
        keys[name] = Key(
            name=name,
            is_required=f.default is MISSING and f.default_factory is MISSING,
            is_list=_is_tuple(hint) and (is_section or registry is not None),
            choices=None if registry is None else _choices_of(registry),
            find_section=partial(section_of, inner) if is_section else None,
            may_be_null=type(None) in get_args(hint),
        )
    return _SECTIONS.setdefault(schema, Section(schema.__name__, keys))


@dataclass(frozen=True)
class _RegistryChoices(Choices):
    """The components of a registry, each imported when its section is read."""

    registry: Registry

    def section(self, name: str) -> Section:
        """See ``Choices``."""
        return section_of(self.registry.get(name).Config)


def _choices_of(registry: Registry) -> _RegistryChoices:
    return _RegistryChoices(registry.kind, dict.fromkeys(registry.names(), ""), registry)


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
    """Finds ``X`` in ``X``, ``X | None`` and ``tuple[X, ...]``; returns other hints unchanged."""
    hint = _non_none(hint)
    return _non_none(get_args(hint)[0]) if _is_tuple(hint) and get_args(hint) else hint


def _is_tuple(hint: Any) -> bool:
    return get_origin(_non_none(hint)) is tuple


def _allows_none(hint: Any, f: Field) -> bool:
    return f.default is None or (
        get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
