"""Cut out spans in which nothing changes: still pictures, frozen streams, black between shots."""

from collections.abc import Iterable, Iterator

import numpy as np

from data_pipelines.stages.motion import shrink
from data_pipelines.stages.resample import Cut, Event, SegmentEnd, Tick

# Coding noise of a still picture, in levels of 255: on average, and in a cell of the small picture.
_MAX_MEAN, _MAX_CELL = 0.5, 4.0


def cut_frozen(events: Iterable[Event], max_frozen_s: float) -> Iterator[Event]:
    """Passes events on but for spans of more than ``max_frozen_s`` that show one picture.

    Each tick is compared with the first one of its span, so a slow fade is no frozen span. Ticks
    wait for ``max_frozen_s`` at most.
    """
    run: list[Tick] = []
    picture = np.empty(0)
    is_frozen = False
    for event in events:
        if isinstance(event, Tick):
            small = 255 * shrink(event.source.pixels[None])
            if run and _is_same(picture, small):
                if is_frozen:
                    continue
                run.append(event)
                if event.time_s - run[0].time_s > max_frozen_s:
                    is_frozen = True
                    yield SegmentEnd(run[0].time_s)
                continue
            yield from _close(run, is_frozen, event.time_s)
            run, picture, is_frozen = [event], small, False
        else:
            end_s = event.start_s if isinstance(event, Cut) else event.time_s
            yield from _close(run, is_frozen, end_s)
            if not (is_frozen and isinstance(event, SegmentEnd)):
                yield event
            run, is_frozen = [], False
    assert not run, "resample ends every segment"


def _is_same(picture: np.ndarray, other: np.ndarray) -> bool:
    difference = np.abs(picture - other)
    return bool(difference.mean() <= _MAX_MEAN and difference.max() <= _MAX_CELL)


def _close(run: list[Tick], is_frozen: bool, end_s: float) -> Iterator[Event]:
    if is_frozen:
        start_s = run[0].time_s
        yield Cut(start_s, end_s, "frozen", f"one picture for {end_s - start_s:.3g} s")
    else:
        yield from run
