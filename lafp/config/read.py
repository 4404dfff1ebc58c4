"""Reads the values of a config: YAML files, the files that they extend, and overrides.

Nothing here knows a config class. ``lafp.config.load`` checks the values.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lafp.config.errors import PARSER_ERRORS, ConfigError, first_line
from lafp.config.merge import merge
from lafp.config.source import Section


def read_config(
    section: Section, path: str | Path, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Reads ``path`` and applies ``overrides``, but checks no keys and no values.

    Raises:
        ConfigError: The file is missing or not a YAML mapping, or an override has no ``=``.
    """
    # Imported late, as in ``lafp.config.leaves``.
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    merged = overridden(section, _load_yaml(section, Path(path)), overrides)
    check_no_resolver(merged, str(path))
    try:
        raw = OmegaConf.to_container(OmegaConf.create(merged), resolve=True)
    except (OmegaConfBaseException, *PARSER_ERRORS) as error:
        raise ConfigError(f"{path}: {first_line(error)}") from None
    assert isinstance(raw, dict)
    return {str(key): value for key, value in raw.items()}


def _load_yaml(section: Section | None, path: Path, seen: tuple[Path, ...] = ()) -> dict[Any, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        is_folder, is_file = bool(path.name) and path.is_dir(), path.is_file()
    except (OSError, ValueError):  # no file can have this name
        is_folder = is_file = False
    if is_folder:
        raise ConfigError(f"{path} is a folder, where a config file is expected.{_names_in(path)}")
    if not is_file:
        raise ConfigError(f"No config file at {path}." + _near_files(path))
    if path.resolve() in seen:
        raise ConfigError(
            f"{path}: `extends` goes in a circle, because this file extends itself or a file that "
            "extends it. Remove one `extends`."
        )
    try:
        # OmegaConf's loader, not PyYAML's: it reads 1e-4 as a number.
        loaded = OmegaConf.load(path)
        raw = OmegaConf.to_container(loaded, resolve=False)
    except RecursionError:
        raise ConfigError(f"{path} is not readable as YAML: it is nested too deeply.") from None
    # PyYAML raises errors of many kinds for tags and numbers that it cannot build.
    except (OmegaConfBaseException, yaml.YAMLError, OSError, *PARSER_ERRORS) as error:
        # In one line: errors of PyYAML have several.
        words = " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable as YAML: {words}") from None
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: expected keys and values, got {type(raw).__name__}. Write lines of the form "
            "`key: value`."
        )
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


def overridden(
    section: Section | None, base: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Lays dotlist items on the values of a config, the last one winning.

    Raises:
        ConfigError: An item has no key or no ``=``, or its value is no YAML.
    """
    merged: Any = base
    for group in _groups(overrides):
        raw = {str(key): value for key, value in _parse_dotlist(group).items()}
        merged = merge(section, merged, raw)
    return dict(merged)


def _groups(overrides: Sequence[str]) -> list[list[str]]:
    """Divides items so that a whole list and changes of its elements are in different groups."""
    groups: list[list[str]] = [[]]
    lists: set[str] = set()
    keys: set[str] = set()
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key:  # OmegaConf would silently read a bare "key" as key=null.
            missing = "key" if equals else "'='"
            raise ConfigError(f"Override {item!r} has no {missing}. Write it as section.key=value.")
        is_list = value.lstrip().startswith("[")
        is_of_a_list = any(key.startswith(f"{name}.") for name in lists)
        if is_of_a_list or (is_list and any(name.startswith(f"{key}.") for name in keys)):
            groups.append([])
            lists, keys = set(), set()
        if is_list:
            lists.add(key)
        keys.add(key)
        groups[-1].append(item)
    return groups


def _parse_dotlist(overrides: Sequence[str]) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=False)
    except RecursionError:
        words = "it is nested too deeply"
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        words = getattr(error, "problem", None) or first_line(error)
    if len(overrides) > 1:
        for item in overrides:
            _parse_dotlist([item])  # alone, so that the error names it
    which = ", ".join(map(repr, overrides))
    raise ConfigError(
        f"Override {which} cannot be read: {words}. Its value is YAML: put text with brackets, "
        "quotes, '#' or ': ' into quotes."
    ) from None


def check_no_resolver(raw: Any, where: str) -> None:
    """Checks that no text asks OmegaConf for more than another key: ``${oc.env:HOME}`` does.

    Such a config, or one stored with a stranger's model, would read environment variables, and the
    result is stored with the run.

    Raises:
        ConfigError: One does.
    """
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            check_no_resolver(value, f"{where}: {key}")
    elif isinstance(raw, list | tuple):
        for item in raw:
            check_no_resolver(item, where)
    elif isinstance(raw, str) and "${" in raw:
        depth = 0
        for found in re.finditer(r"\$\{|\}|:", raw):
            depth += {"${": 1, "}": -1 if depth else 0, ":": 0}[found[0]]
            if found[0] == ":" and depth:
                raise ConfigError(
                    f"{where}: {raw!r} calls a resolver of OmegaConf, which configs may not. Only "
                    "${section.key} is allowed. Write the value, or give it on the command line."
                )
