"""Divides items that follow each other into groups of bounded size."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def packed(
    items: Iterable[T], size_of: Callable[[T], int], max_size: int, max_items: int | None = None
) -> Iterator[list[T]]:
    """Yields groups of items, in order. A group grows until the next item would not fit.

    Args:
        items: They are read one group ahead at most, so there may be any number of them.
        size_of: Returns the size of an item.
        max_size: Most that the sizes of a group may add up to. An item that is larger is a group
            of its own.
        max_items: Most items in a group.
    """
    group: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if group and (total + size > max_size or len(group) == max_items):
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    if group:
        yield group
