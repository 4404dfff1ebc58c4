"""Maps names in YAML to classes in code. A registry is one dict that lists every choice."""

from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Choice(Protocol):
    """A section of a config whose ``name`` picks a class of a registry."""

    @property
    def name(self) -> str:
        """Name of the class."""

    def __hash__(self) -> int: ...


class Registry(Generic[T]):
    """Maps a short name to a class given as ``"package.module:Class"``, a kind of ``T``.

    A class is imported on first use, so that picking one video decoder does not import the others.
    """

    def __init__(self, kind: str, entries: dict[str, str]) -> None:
        self.kind = kind
        self.entries = entries
        """Name -> ``"package.module:Class"``."""

    def names(self) -> list[str]:
        """Returns every registered name, sorted."""
        return sorted(self.entries)

    def modules(self) -> list[str]:
        """Returns the modules of the registered classes, in the order of the names."""
        return [self.entries[name].partition(":")[0] for name in self.names()]

    def get(self, name: str) -> Any:
        """Returns the class called ``name``.

        Raises:
            ValueError: No class has this name. The message lists the choices.
        """
        if name not in self.entries:
            raise ValueError(
                f"Unknown {self.kind} {name!r}. Choose one of: {', '.join(self.names())}."
            )
        module, _, attr = self.entries[name].partition(":")
        return getattr(import_module(module), attr)

    def build(self, cfg: Choice, *args: Any) -> T:
        """Builds the class that a section picks, from the section and the other arguments."""
        return self.get(cfg.name)(cfg, *args)
