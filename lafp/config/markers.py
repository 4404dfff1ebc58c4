"""Markers of config fields. ``lafp.config.source`` finds them by their names."""

from dataclasses import field
from typing import Any

from lafp.config.registry import Registry


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
