"""Cuts out exactly the frames whose label rows cannot be used."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoInfo

REASON = "bad_labels"
# Frame times are sums with rounding errors; two frames lie much further apart than this.
SAME_S = 1e-5


@dataclass(frozen=True)
class Flaw:
    """Names one row that cannot be used, and the reason."""

    row: int
    detail: str


def in_float32(name: str, rows: np.ndarray) -> tuple[np.ndarray, list[Flaw]]:
    """Converts rows to float32, and finds those that are not finite there.

    Args:
        name: Name of the array in messages.
        rows: Numbers [T, N].
    """
    with np.errstate(over="ignore"):
        converted = rows.astype(np.float32)
    flaws = []
    for row in np.flatnonzero(~np.isfinite(converted).all(axis=1)).tolist():
        column = int(np.flatnonzero(~np.isfinite(converted[row]))[0])
        value = rows[row, column]
        limit = ", beyond float32" if np.isfinite(value) else ""
        flaws.append(Flaw(row, f"{name}[{column}] is {value}{limit}"))
    return converted, flaws


def flawed_spans(
    name: str, flaws: Sequence[Flaw], times_s: np.ndarray, info: VideoInfo
) -> list[DamagedSpan]:
    """Returns the spans of the frames during which a flawed row is in force.

    Args:
        name: Name of the episode in messages; may be empty.
        flaws: Flaws in any order.
        times_s: When each row comes into force.
        info: The video, of which only whole frames are cut out.
    """
    if not flaws:
        return []
    first_of: dict[int, str] = {}
    for flaw in flaws:
        first_of.setdefault(flaw.row, flaw.detail)
    ends_s = np.append(info.times_s[1:], info.duration_s)
    row_ends_s = np.append(times_s[1:], np.inf)
    spans: list[tuple[int, int, list[int]]] = []  # first frame, frame after the last, rows
    for row in sorted(first_of):
        begin_s = -np.inf if row == 0 else times_s[row]
        first = int(np.searchsorted(ends_s, begin_s + SAME_S, side="right"))
        end = int(np.searchsorted(info.times_s, row_ends_s[row] - SAME_S, side="left"))
        if spans and first <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(end, spans[-1][1]), [*spans[-1][2], row]
        elif end > first:
            spans.append((first, end, [row]))
    return [
        DamagedSpan(
            float(info.times_s[first]) if first else 0.0,
            float(ends_s[end - 1]),
            _in_words(name, rows, first_of[rows[0]]),
            REASON,
        )
        for first, end, rows in spans
    ]


def _in_words(name: str, rows: list[int], detail: str) -> str:
    more = f" (and {len(rows) - 1} rows more up to row {rows[-1]})" if len(rows) > 1 else ""
    return f"{name}{', ' if name else ''}row {rows[0]}: {detail}{more}"


def cut_out(
    events: Iterable[DecodedFrame | DamagedSpan], spans: Sequence[DamagedSpan]
) -> Iterator[DecodedFrame | DamagedSpan]:
    """Replaces the frames that begin in the spans by the spans.

    Args:
        events: The output of a video decoder.
        spans: Spans in order that do not touch.
    """
    waiting, cut_until_s = list(reversed(spans)), 0.0
    for event in events:
        time_s = event.time_s if isinstance(event, DecodedFrame) else event.start_s
        while waiting and waiting[-1].start_s <= time_s + SAME_S:
            cut_until_s = waiting[-1].end_s
            yield waiting.pop()
        if isinstance(event, DamagedSpan):
            yield event
        elif time_s >= cut_until_s - SAME_S:
            # Snapped to the end of the cut, so that rounding leaves no gap between them.
            is_next = abs(time_s - cut_until_s) <= SAME_S
            yield replace(event, time_s=cut_until_s) if is_next else event
    yield from reversed(waiting)
