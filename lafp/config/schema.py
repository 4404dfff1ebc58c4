"""Describes config dataclasses by the types and metadata of their fields."""

import types
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import partial
from typing import Any, Union, get_args, get_origin, get_type_hints

from lafp.config.registry import Registry
from lafp.config.source import Choices, Key, Section

_SECTIONS: dict[type, Section] = {}


def section_of(schema: type) -> Section:
    """Describes a dataclass as ``lafp.config.source`` would describe it from its source file."""
    if schema in _SECTIONS:
        return _SECTIONS[schema]
    keys = {}
    for name, (f, hint) in fields_with_types(schema).items():
        registry, inner = f.metadata.get("registry"), inner_type(hint)
        is_section = registry is None and is_config_class(inner)
        keys[name] = Key(
            name=name,
            is_required=f.default is MISSING and f.default_factory is MISSING,
            is_list=is_tuple(hint) and (is_section or registry is not None),
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


def fields_with_types(schema: Any) -> dict[str, tuple[Field, Any]]:
    """Maps the name of each field to the field and its resolved annotation."""
    hints = get_type_hints(schema)
    return {f.name: (f, hints[f.name]) for f in fields(schema)}


def is_config_class(hint: Any) -> bool:
    """Tells whether an annotation is a dataclass, and so a section."""
    return isinstance(hint, type) and is_dataclass(hint)


def non_none(hint: Any) -> Any:
    """Finds ``X`` in ``X | None``; returns other annotations unchanged."""
    if get_origin(hint) in (Union, types.UnionType):
        rest = [arg for arg in get_args(hint) if arg is not type(None)]
        return rest[0] if len(rest) == 1 else hint
    return hint


def inner_type(hint: Any) -> Any:
    """Finds ``X`` in ``X | None`` and ``tuple[X, ...]``; returns other annotations unchanged."""
    hint = non_none(hint)
    return non_none(get_args(hint)[0]) if is_tuple(hint) and get_args(hint) else hint


def is_tuple(hint: Any) -> bool:
    """Tells whether an annotation is ``tuple[X, ...]``, also if null may stand there."""
    return get_origin(non_none(hint)) is tuple


def allows_none(hint: Any, f: Field) -> bool:
    """Tells whether null may stand where a section is expected."""
    return f.default is None or (
        get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    )
