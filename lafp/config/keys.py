"""Checks the keys of a config, without its classes.

So a mistyped key is reported before torch is imported.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from lafp.config.errors import ConfigError
from lafp.config.source import Key, Section


def check_keys(section: Section, raw: Any, where: str = "") -> None:
    """Checks that a config has exactly the keys of its section, at every depth.

    Raises:
        ConfigError: A key is unknown or missing, a section is not a mapping, or a ``name`` is not
            one of the choices.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{where.rstrip('.') or 'The config'}: expected keys of {section.name}, got {raw!r}. "
            f"Its keys: {', '.join(section.keys)}."
        )
    for name in raw:
        if name not in section.keys:
            raise ConfigError(_unknown_key(f"{where}{name}", str(name), section))
    for name, key in section.keys.items():
        if name in raw:
            _check_value(key, raw[name], f"{where}{name}")
        elif key.is_required:
            raise ConfigError(
                f"Key '{where}{name}' is missing: {section.name} needs it. Set {where}{name}=VALUE."
            )


def _check_value(key: Key, raw: Any, where: str) -> None:
    if raw is None or not (key.choices or key.section):
        return
    if not key.is_list:
        _check_section(key, raw, where)
        return
    if not isinstance(raw, list | tuple):
        raise ConfigError(f"{where}: expected a list of sections, got {raw!r}.")
    for index, item in enumerate(raw):
        _check_section(key, item, f"{where}.{index}")


def _check_section(key: Key, raw: Any, where: str) -> None:
    if not key.choices:
        assert key.section
        check_keys(key.section, raw, f"{where}.")
        return
    names = key.choices.names()
    if not isinstance(raw, Mapping) or "name" not in raw:
        none = f" or {where}=null" if key.may_be_null else ""
        raise ConfigError(
            f"{where}: needs a `name`, one of: {', '.join(names)}. Got {raw!r}. Write "
            f"{where}.name={raw if raw in names else 'NAME'}{none}."
        )
    if raw["name"] not in names:
        raise ConfigError(
            f"{where}.name: Unknown {key.choices.kind} {raw['name']!r}. Choose one of: "
            f"{', '.join(names)}."
        )
    check_keys(key.choices.section(raw["name"]), raw, f"{where}.")


def _unknown_key(full_key: str, key: str, section: Section) -> str:
    known = list(section.keys)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean: '{close[0]}'?" if close else f" Its keys: {', '.join(known)}."
    return f"Key '{full_key}' is not in {section.name}.{hint}"
