"""Reads config dataclasses from their source files without importing them.

A config stands in the file of its component, which imports torch. ``--help`` and errors about
mistyped keys must not take as long as that import. So this module parses the source: keys, types,
defaults, docstrings, and the registry that a section's ``name`` picks from. Only the checking of
values imports the classes.
"""

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_MARKERS = ("field", "choice", "may_change", "may_grow")


@dataclass(frozen=True)
class Choices:
    """The values that a section's ``name`` may have."""

    kind: str
    components: Mapping[str, str]
    """Name -> ``"package.module:Class"`` of the component, whose config is its ``Config``."""

    def names(self) -> list[str]:
        """Returns every name, sorted."""
        return sorted(self.components)

    def section(self, name: str) -> "Section":
        """Reads the config of the component called ``name``."""
        return _config_of(*_parted(self.components[name]))


@dataclass(frozen=True, kw_only=True)
class Key:
    """One field of a config dataclass."""

    name: str
    is_required: bool
    is_list: bool
    """Whether the field is a tuple of sections."""
    choices: Choices | None
    """The choices of a section that is picked by its ``name``; None for any other field."""
    find_section: Callable[[], "Section"] | None
    """Reads the section of a field with a fixed dataclass; None for any other field."""
    may_be_null: bool
    type: str = ""
    """The annotation in the source, with type aliases replaced by their definitions."""
    default: str | None = None
    """The default in the source, with constants replaced by their values. None if there is no
    default or a factory makes it."""
    doc: str = ""

    @property
    def section(self) -> "Section | None":
        """The section of a field with a fixed dataclass; None for any other field."""
        return self.find_section() if self.find_section else None


@dataclass(frozen=True)
class Section:
    """One config dataclass."""

    name: str
    keys: Mapping[str, Key]


@cache
def read_section(path: str) -> Section:
    """Reads the dataclass at ``"package.module:Class"``."""
    module, name = _parted(path)
    return Section(name, {key.name: key for key in _keys(module, name)})


# ---------------------------------------------------------------------------------------------
# Classes


def _keys(module: str, name: str) -> Iterator[Key]:
    """Yields the keys of the bases first. A field that is defined again keeps its place."""
    keys: dict[str, Key] = {}
    node = _class(module, name)
    for base in node.bases:
        if isinstance(base, ast.Name) and (found := _resolve(module, base.id)):
            keys |= {key.name: key for key in _keys(*found)}
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            key = _key(module, field.target.id, field, _doc(after))
            keys[key.name] = key
    yield from keys.values()


def _key(module: str, name: str, field: ast.AnnAssign, doc: str) -> Key:
    annotation = _unquoted(field.annotation)
    call = _marker(field.value)
    given = {item.arg: item.value for item in call.keywords} if call else {}
    default = given.get("default") if call else field.value
    choices = None
    if call and isinstance(call.func, ast.Name) and call.func.id == "choice":
        assert isinstance(call.args[0], ast.Name)
        choices = _registry(module, call.args[0].id)
    section = None if choices else _dataclass_in(module, annotation)
    is_section = bool(choices or section)
    return Key(
        name=name,
        type=_type(module, annotation),
        default=None if default is None else _default(module, default, is_section),
        is_required=default is None and "default_factory" not in given,
        is_list=is_section and "tuple[" in ast.unparse(annotation),
        may_be_null="None" in ast.unparse(annotation),
        find_section=partial(read_section, section) if section else None,
        choices=choices,
        doc=doc,
    )


def _marker(value: ast.expr | None) -> ast.Call | None:
    is_call = isinstance(value, ast.Call) and isinstance(value.func, ast.Name)
    return value if is_call and value.func.id in _MARKERS else None  # type: ignore[union-attr,return-value]


def _dataclass_in(module: str, annotation: ast.expr) -> str | None:
    """Finds the dataclass ``X`` in ``X``, ``X | None`` or ``tuple[X, ...]``; None if it is none."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and (found := _resolve(module, node.id)):
            owner, name = found
            definition = _definitions(owner).get(name)
            if isinstance(definition, ast.ClassDef) and definition.decorator_list:
                return f"{owner}:{name}"
    return None


def _config_of(module: str, component: str) -> Section:
    """Reads the ``Config`` of a component, or of its base class if it has no own."""
    node = _class(module, component)
    for item in node.body:
        target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
        value = getattr(item, "value", None)
        if isinstance(target, ast.Name) and target.id == "Config" and isinstance(value, ast.Name):
            found = _resolve(module, value.id)
            assert found, value.id
            return read_section(":".join(found))
    for base in node.bases:
        if isinstance(base, ast.Name) and (found := _resolve(module, base.id)):
            return _config_of(*found)
    raise AssertionError(f"{module}:{component} has no Config")


def _registry(module: str, name: str) -> Choices:
    found = _resolve(module, name)
    assert found, name
    call = _definitions(found[0])[found[1]]
    assert isinstance(call, ast.Call)
    return Choices(ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1]))


def _class(module: str, name: str) -> ast.ClassDef:
    node = _definitions(module)[name]
    assert isinstance(node, ast.ClassDef), f"{module}:{name} is no class"
    return node


# ---------------------------------------------------------------------------------------------
# Modules


def _resolve(module: str, name: str) -> tuple[str, str] | None:
    """Finds the module and name under which ``module``'s ``name`` is defined."""
    if name in _definitions(module):
        return module, name
    if name not in _imports(module):
        return None
    source, original = _imports(module)[name]
    return _resolve(source, original) if _file(source) else None


@cache
def _definitions(module: str) -> dict[str, ast.AST]:
    """Maps the top-level names of a module to their class definitions or values."""
    found: dict[str, ast.AST] = {}
    for node in _body(module):
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= _assigned(node.targets[0], node.value)
        elif isinstance(node, ast.AnnAssign) and node.value:
            found |= _assigned(node.target, node.value)
    return found


def _assigned(target: ast.expr, value: ast.expr) -> dict[str, ast.AST]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=True)
        return {name: item for pair in pairs for name, item in _assigned(*pair).items()}
    return {target.id: value} if isinstance(target, ast.Name) else {}


@cache
def _imports(module: str) -> dict[str, tuple[str, str]]:
    return {
        item.asname or item.name: (node.module, item.name)
        for node in _body(module)
        if isinstance(node, ast.ImportFrom) and node.module
        for item in node.names
    }


@cache
def _body(module: str) -> list[ast.stmt]:
    file = _file(module)
    assert file, f"no source file of {module}"
    body = ast.parse(file.read_text()).body
    inner = [stmt for node in body if isinstance(node, ast.If) for stmt in node.body]
    return [*body, *inner]  # `if TYPE_CHECKING:`


def _file(module: str) -> Path | None:
    path = _ROOT / module.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _parted(path: str) -> tuple[str, str]:
    module, _, name = path.partition(":")
    return module, name


# ---------------------------------------------------------------------------------------------
# In words


def _type(module: str, annotation: ast.expr) -> str:
    return ast.unparse(_written_out(module, annotation, (ast.Subscript,)))


def _written_out(module: str, value: ast.expr, kinds: tuple[type, ...]) -> ast.expr:
    """Copies an expression and replaces names whose definitions have one of these kinds."""

    class WriteOut(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            if found := _resolve(module, node.id):
                definition = _definitions(found[0])[found[1]]
                if isinstance(definition, kinds) and isinstance(definition, ast.expr):
                    return _written_out(found[0], definition, kinds)
            return node

    written: ast.expr = WriteOut().visit(copy.deepcopy(value))
    return ast.fix_missing_locations(written)


def _unquoted(annotation: ast.expr) -> ast.expr:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _default(module: str, value: ast.expr, is_section: bool) -> str | None:
    if isinstance(value, ast.Constant) and value.value is None:
        return "null"
    if is_section:
        return None
    value = _written_out(module, value, (ast.Constant, ast.BinOp, ast.Tuple))
    nodes = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.Tuple, ast.operator, ast.unaryop, ast.Load)
    if not all(isinstance(node, nodes) for node in ast.walk(value)):
        return ast.unparse(value)
    # Only constants and operators are left here, and no name can be looked up, so this runs no code
    # of anybody's.
    computed = eval(  # noqa: S307
        compile(ast.Expression(value), "default", "eval"), {"__builtins__": {}}
    )
    return repr(list(computed) if isinstance(computed, tuple) else computed)


def _doc(after: ast.stmt | None) -> str:
    is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    value = after.value.value if is_text else ""  # type: ignore[union-attr]
    return " ".join(value.split()) if isinstance(value, str) else ""
