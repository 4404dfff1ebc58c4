"""Merges the values of a config with those that replace them.

Merging follows the schema, because only the schema knows which ``name`` picks a class.
"""

from collections.abc import Mapping
from typing import Any

from lafp.config.errors import ConfigError
from lafp.config.source import Key, Section


def merge(section: Section | None, base: Any, over: Any, key: Key | None = None) -> Any:
    """Lays the values ``over`` on those of ``base``, key by key.

    Args:
        section: The section that both describe; None if it is unknown.
        base: Containers as YAML gives them, e.g. those of the file that ``extends`` names.
        over: Like ``base``. A mapping on a list changes the elements at its keys.
        key: The key whose values both are, if there is one.

    Raises:
        ConfigError: ``over`` changes an element that the list does not have.
    """
    if isinstance(base, list) and isinstance(over, Mapping):
        return _merge_elements(section, base, over, key)
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    if key and key.choices:
        if "name" in over and over["name"] != base.get("name"):
            return dict(over)  # the other class does not know the old class's keys
        name = base.get("name")
        section = key.choices.section(name) if name in key.choices.names() else None
    known = section.keys if section else {}
    merged = dict(base)
    for name, value in over.items():
        child = known.get(name)
        if name in base:
            value = merge(child.section if child else None, base[name], value, child)
        merged[name] = value
    return merged


def _merge_elements(
    section: Section | None, base: list[Any], over: Mapping[str, Any], key: Key | None
) -> list[Any]:
    merged = list(base)
    for number, value in over.items():
        index = int(number) if str(number).isdigit() else -1
        if number != "*" and not 0 <= index < len(base):
            where = key.name if key else "the list"
            if not base:
                raise ConfigError(
                    f"{where}.{number}: this list is empty, so it has no element to change. Write "
                    "the whole list."
                )
            raise ConfigError(
                f"{where}.{number}: expected * or an index from 0 to {len(base) - 1}."
            )
        for i in range(len(base)) if number == "*" else [index]:
            merged[i] = merge(section, merged[i], value, key)
    return merged
