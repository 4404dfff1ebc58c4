"""``--help``: every config key with its type, default and docstring, read from the dataclasses."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from lafp.config import config_to_dict


def describe(schema: type, indent: int = 2) -> str:
    """The config's keys as indented text. Sections picked by name list each of their choices."""
    return "\n".join(_lines(schema, indent))


def _lines(schema: type, indent: int) -> Iterator[str]:
    hints, docs = get_type_hints(schema), field_docs(schema)
    for f in fields(schema):
        registry = f.metadata.get("registry")
        section = _section(hints[f.name])
        doc = docs.get(f.name, "")
        kind = "section" if registry or section else _type_name(hints[f.name])
        if get_origin(hints[f.name]) is tuple and (registry or section):
            kind = "list of sections"
        yield " " * indent + f"{f.name}: {kind}{_default(f, bool(registry or section))}"
        margin = " " * (indent + 4)
        yield from textwrap.wrap(doc, 100, initial_indent=margin, subsequent_indent=margin)
        if section:
            yield from _lines(section, indent + 2)
        if registry:
            for name in registry.names():
                yield " " * (indent + 2) + f"name: {name}"
                yield from _lines(registry.get(name).Config, indent + 4)


@cache
def field_docs(schema: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, its bases included."""
    docs: dict[str, str] = {}
    for cls in reversed(schema.__mro__):
        if not is_dataclass(cls):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[node.target.id] = " ".join(after.value.value.split())
    return docs


def _section(hint: Any) -> type | None:
    for candidate in (hint, *get_args(hint)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate
    return None


def _type_name(hint: Any) -> str:
    if get_origin(hint) is None and isinstance(hint, type):
        return hint.__name__
    return str(hint).replace("typing.", "").replace("NoneType", "None")


def _default(f: Field, is_section: bool) -> str:
    if f.default is None:
        return " = null"
    if is_section:
        return ""
    if f.default is not MISSING:
        return f" = {config_to_dict(f.default)!r}"
    return "" if f.default_factory is not MISSING else "  (required)"
