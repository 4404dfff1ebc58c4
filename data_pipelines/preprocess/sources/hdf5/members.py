"""Goes through the members of an HDF5 file, which may link to each other in any way.

Names are bytes in the file. Here they are text, in which a byte that is not UTF-8 is a surrogate,
like Python's names of files. ``h5py`` itself fails at such names in several places.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from lafp.video.decoders.base import VideoError

_NUM_LISTED = 12


def names(group: Any) -> list[str]:
    """Lists the names in a group, also those of links that lead nowhere."""
    return [name.decode(errors="surrogateescape") for name in group.id]


def shown(key: str) -> str:
    """Escapes the bytes of a path that are no characters, as in the names of files."""
    return key.encode(errors="surrogateescape").decode(errors="backslashreplace")


def content(group: Any, key: str) -> Any | None:
    """Opens a member by its path; None if there is none, or if it cannot be opened."""
    try:
        return member(group, key)
    except VideoError:
        return None


def member(group: Any, key: str) -> Any:
    """Opens a member by its path.

    Raises:
        VideoError: ``does_not_decode``: there is none, its link leads nowhere, or it is damaged.
    """
    try:
        found = group[key.encode(errors="surrogateescape")]
        getattr(found, "dtype", None)  # only now does h5py find a type that numpy does not have
        return found
    except Exception as error:  # h5py raises its errors as any of many kinds
        raise VideoError(
            "does_not_decode", f"{shown(key)} cannot be opened: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return str(error.args[0]) if error.args else type(error).__name__


def walk(h5py: ModuleType, group: Any, are_apart: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yields path and content of all members below a group, by name; None for what does not open.

    Links inside of the file are followed, each to a group only once, because they may go in
    circles.

    Args:
        h5py: The module.
        group: Where to begin.
        are_apart: Groups below with one of these names in them are yielded, but not gone into.
    """
    seen, waiting = set(), [("", group)]
    while waiting:
        path, found = waiting.pop()
        if path:
            yield path, found
        if not isinstance(found, h5py.Group) or found.id in seen:
            continue
        if path and are_apart.intersection(names(found)):
            continue
        seen.add(found.id)
        prefix = f"{path}/" if path else ""
        waiting += [(prefix + name, content(found, name)) for name in reversed(names(found))]


def outside_name(h5py: ModuleType, file: Any) -> str | None:
    """Returns the name of a link or dataset whose content lies in another file; None without one.

    A file of a stranger could name any file that the worker may read, and its bytes would go into
    the labels. No such link is followed here.
    """
    seen, waiting = set(), [("", file)]
    while waiting:
        path, group = waiting.pop()
        if group.id in seen:
            continue
        seen.add(group.id)
        for name in names(group):
            key = f"{path}/{name}" if path else name
            link = group.id.links.get_info(name.encode(errors="surrogateescape")).type
            if link == h5py.h5l.TYPE_SOFT:  # a path in this file, whose links are looked at too
                continue
            if link != h5py.h5l.TYPE_HARD:
                return key
            found = content(group, name)
            if isinstance(found, h5py.Group):
                waiting.append((key, found))
            elif isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
                return key
    return None


def in_words(h5py: ModuleType, group: Any) -> str:
    """Describes the arrays of a group, for a message."""
    listed: list[str] = []
    for key, found in walk(h5py, group, frozenset()):
        if isinstance(found, h5py.Dataset):
            listed.append(f"{shown(key)} {found.dtype} {list(found.shape or ())}")
        elif found is None:
            listed.append(f"{shown(key)} (which cannot be opened)")
    more = f" and {len(listed) - _NUM_LISTED} more" if len(listed) > _NUM_LISTED else ""
    return ", ".join(listed[:_NUM_LISTED]) + more or "no arrays"
