"""Groups hold all items in order, and no more than they may."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lafp.data.packing import packed


@given(st.lists(st.integers(0, 9)), st.integers(1, 20), st.none() | st.integers(1, 4))
def test_groups_are_full_and_none_is_too_large(sizes, max_size, max_items):
    groups = list(packed(sizes, int, max_size, max_items))
    assert [size for group in groups for size in group] == sizes
    for group in groups:
        assert len(group) == 1 or sum(group) <= max_size
        assert max_items is None or len(group) <= max_items
    for group, later in pairwise(groups):
        assert sum(group) + later[0] > max_size or len(group) == max_items, "it would fit"


def test_items_are_read_when_they_are_needed():
    items = iter(range(10))
    assert next(packed(items, lambda _: 1, 2)) == [0, 1]
    assert next(items) == 3, "one item more than the group was read"
