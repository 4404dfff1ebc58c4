"""Tests of the range checks that config classes share."""

from dataclasses import dataclass

import pytest

from lafp.config.ranges import check_at_least, check_positive


@dataclass(frozen=True, kw_only=True)
class Sizes:
    width: int = 1
    share: float | None = None


def test_a_field_that_is_none_or_large_enough_passes():
    check_at_least(Sizes(), 1, "width", "share")
    check_positive(Sizes(share=0.1), "width", "share")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (
            lambda: check_at_least(Sizes(width=1), 2, "share", "width"),
            "width must be at least 2, got 1",
        ),
        (
            lambda: check_at_least(Sizes(share=-0.1), 0, "share"),
            "share must not be negative, got -0.1",
        ),
        (
            lambda: check_positive(Sizes(share=0.0), "width", "share"),
            "share must be positive, got 0.0",
        ),
    ],
)
def test_the_error_names_the_field_and_its_value(check, words):
    with pytest.raises(ValueError, match=words):
        check()
