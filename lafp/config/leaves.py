"""Checks and converts single values of a config against the types of their fields."""

import math
import types
from collections.abc import Mapping
from dataclasses import make_dataclass
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin

from lafp.config.errors import PARSER_ERRORS, ConfigError, first_line
from lafp.config.read import check_no_resolver
from lafp.config.schema import non_none

_YAML_WORDS = {False: ("off", "no", "false"), True: ("on", "yes", "true")}


def check_leaves(leaves: Mapping[str, tuple[Any, Any]], where: str) -> dict[str, Any]:
    """Checks and converts values one at a time, so that an error names its own key."""
    # Imported late: it takes a third of the time in which an agent's code is imported.
    from omegaconf.errors import OmegaConfBaseException

    values = {}
    for name, (hint, raw) in leaves.items():
        check_no_resolver(raw, f"{where}{name}")
        if isinstance(raw, bool):
            raw = _word_behind_bool(hint, raw, f"{where}{name}")
        is_plain = raw is None or isinstance(raw, str | int | float)
        check = _check_plain_leaf if is_plain else _check_leaf
        try:
            values[name] = check(name, hint, raw)
        except (OmegaConfBaseException, *PARSER_ERRORS) as error:
            expected = getattr(hint, "__name__", None) if not get_args(hint) else None
            raise ConfigError(
                f"{where}{name}: expected {expected or hint}, got {raw!r}. {first_line(error)}"
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
    hint = non_none(hint)
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
    from omegaconf import OmegaConf

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
