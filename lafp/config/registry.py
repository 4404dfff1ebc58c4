"""Names in YAML to classes in code. A registry is one dict: every choice in one place."""

from importlib import import_module
from typing import Any


class Registry:
    """Maps a short name to a class given as ``"package.module:Class"``.

    Classes are imported on first use: picking one video decoder must not import the others.
    """

    def __init__(self, kind: str, entries: dict[str, str]) -> None:
        self.kind = kind
        self._entries = entries

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        return sorted(self._entries)

    def get(self, name: str) -> Any:
        """The class called ``name``, or a ValueError that lists the choices."""
        if name not in self._entries:
            raise ValueError(
                f"Unknown {self.kind} {name!r}. Choose one of: {', '.join(self.names())}."
            )
        module, _, attr = self._entries[name].partition(":")
        return getattr(import_module(module), attr)
