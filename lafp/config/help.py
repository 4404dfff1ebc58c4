"""``--help``: every config key with its type, default and docstring, read from the source."""

import textwrap
from collections.abc import Iterator

from lafp.config.source import Key, Section, read_section


def describe(path: str) -> str:
    """Lists the keys of the config at ``"package.module:Class"`` as indented text.

    For a section that is picked by name, it lists the keys of every choice.
    """
    return "\n".join(_lines(read_section(path), indent=2))


def _lines(section: Section, indent: int) -> Iterator[str]:
    for key in section.keys.values():
        yield " " * indent + f"{key.name}: {_kind(key)}{_default(key)}"
        margin = " " * (indent + 4)
        yield from textwrap.wrap(key.doc, 100, initial_indent=margin, subsequent_indent=margin)
        if key.section:
            yield from _lines(key.section, indent + 2)
        if key.choices:
            for name in key.choices.names():
                yield " " * (indent + 2) + f"name: {name}"
                yield from _lines(key.choices.section(name), indent + 4)


def _kind(key: Key) -> str:
    if not (key.section or key.choices):
        return key.type
    return "list of sections" if key.is_list else "section"


def _default(key: Key) -> str:
    if key.default is not None:
        return f" = {key.default}"
    is_section = key.section or key.choices
    return "  (required)" if key.is_required and not is_section else ""
