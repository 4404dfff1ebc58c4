"""Formats numbers for people: no exponents, no ``1 clips``, units that fit the size."""

import math
import re
from collections.abc import Mapping

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def counted(num: float, noun: str, plural: str | None = None) -> str:
    """Formats a count with its noun: ``1 clip``, ``1,230 clips``.

    Args:
        num: The count.
        noun: The noun, in the singular.
        plural: The plural, if it is not the noun with an s.
    """
    return f"{num:,} {noun if num == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    r"""Escapes control characters as ``\x1b``, so that a terminal shows a text and does not obey.

    Names of strangers' files may hold any character. Characters that turn the direction of a text
    around are escaped too. Line ends and tabs stay.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def number(value: float) -> str:
    """Formats a number with three significant digits: ``0.0312``, ``4.17``, ``7,280``."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    num_decimals = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, num_decimals)
    text = f"{rounded:,.{max(0, num_decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def byte_size(num_bytes: float) -> str:
    """Formats a size: ``3.4 KB``, ``12.3 MB``, ``1.5 GB``."""
    for limit, unit in ((1e6, "KB"), (1e9, "MB"), (1e12, "GB")):
        if num_bytes < limit:
            return f"{number(1e3 * num_bytes / limit)} {unit}"
    return f"{number(num_bytes / 1e12)} TB"


def speed(per_s: float, unit: str) -> str:
    """Formats a rate per second, minute or hour, whichever first gives at least 1.

    Args:
        per_s: Units per second.
        unit: Name of the unit, in the plural.
    """
    in_a_minute, in_an_hour = 60 * per_s, 3600 * per_s
    if per_s >= 1:
        value, period = number(per_s), "s"
    elif in_a_minute >= 1:
        value, period = number(in_a_minute), "min"
    else:
        value, period = number(in_an_hour), "h"
    return f"{value} {unit.removesuffix('s') if value == '1' else unit}/{period}"


def label_words(num_transitions: int, num_episodes: int) -> str:
    """Writes a number of labels: ``128 labeled transitions (1 episode)``."""
    episodes = counted(num_episodes, "episode")
    return f"{counted(num_transitions, 'labeled transition')} ({episodes})"


def fallback_lines(fallbacks: Mapping[str, int]) -> list[str]:
    """Says why videos were decoded on another device than the config asked for.

    Args:
        fallbacks: Reason -> number of videos, as ``preprocess`` writes it to its summary.
    """
    return [
        f"{counted(num_videos, 'video')} decoded on the CPU instead of the GPU: {reason}"
        for reason, num_videos in fallbacks.items()
    ]
