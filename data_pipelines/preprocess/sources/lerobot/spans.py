"""Finds which frames of a LeRobot v3.0 video file belong to which of its concatenated episodes.

``from_timestamp`` and ``to_timestamp`` are sums of durations, which drift. So frames are counted:
an episode has ``length`` frames and begins where the one before it ends. The time stamps only check
that. They decide where the index leaves a gap, if they cannot have drifted too far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lafp.video.decoders.base import VideoError, VideoInfo

# Two times mean the same frame if they differ by less than this many steps: where frames are
# counted, and where only time stamps decide.
_SAME_FRAME, _NEAREST = 0.5, 0.25
# A file that differs from its episodes by up to this many frames per episode may have lost or
# gained frames anywhere.
_LOST_PER_EPISODE = 2


@dataclass(frozen=True)
class Place:
    """Locates an episode's frames in its file."""

    first: int
    num_frames: int
    """Less than the episode's length if the file ends earlier."""


Span = dict[str, Any]
"""Dict with ``episode``, ``length`` (or None), ``from_s`` and ``to_s`` (or None)."""


def place_episodes(spans: Sequence[Span], info: VideoInfo) -> list[Place | VideoError]:
    """Finds each episode's frames, or the reason why they are not known.

    Args:
        spans: Spans of one file, in the order of ``from_s``.
        info: Probe of the file.
    """
    found: list[Place | VideoError | None] = [_flaw(span, info.fps) for span in spans]
    _reject_conflicts(spans, found, info.fps)
    _set_places(spans, found, info)
    places = [place for place in found if isinstance(place, Place)]
    end = max((place.first + place.num_frames for place in places), default=0)
    surplus, num_frames = len(info.times_s) - end, len(info.times_s)
    # A file that is merely cut off at its end has all frames before it in their places.
    is_cut_off = surplus < 0 and round(info.declared_duration_s * info.fps) >= end
    if 0 < abs(surplus) <= _LOST_PER_EPISODE * len(places) and not is_cut_off:
        # One frame too many or too few in an episode shifts all later episodes.
        detail = f"its file has {num_frames} frames, but its episodes end at frame {end}"
        return [_mismatch(detail) if isinstance(f, Place) else _known(f) for f in found]
    return [_within(f, num_frames) if isinstance(f, Place) else _known(f) for f in found]


def _known(found: VideoError | None) -> VideoError:
    assert found is not None
    return found


def _mismatch(detail: str) -> VideoError:
    return VideoError("labels_mismatch", detail)


def _in_words(span: Span) -> str:
    return f"{span['from_s']:.3f} to {span['to_s']:.3f} s"


def _within(place: Place, num_frames: int) -> Place | VideoError:
    if place.first >= num_frames:
        detail = f"it begins at frame {place.first}, but its file has {num_frames} frames"
        return VideoError("no_frames", detail)
    return Place(place.first, min(place.num_frames, num_frames - place.first))


def _flaw(span: Span, fps: float) -> VideoError | None:
    """Returns the error of one span by itself, or None."""
    if span["from_s"] is None or span["to_s"] is None:
        return _mismatch("meta/episodes has no from_timestamp or to_timestamp for it")
    if span["from_s"] < -_SAME_FRAME / fps or span["to_s"] <= span["from_s"]:
        return _mismatch(
            f"meta/episodes places it from {_in_words(span)}, but a start must not be negative, "
            "and the end must come after it"
        )
    num_frames = (span["to_s"] - span["from_s"]) * fps
    if span["length"] is not None and abs(num_frames - span["length"]) >= _SAME_FRAME:
        return _mismatch(
            f"meta/episodes places it from {_in_words(span)}, which is {num_frames:.1f} frames, "
            f"but its length is {span['length']}"
        )
    return None


def _reject_conflicts(
    spans: Sequence[Span], found: list[Place | VideoError | None], fps: float
) -> None:
    """Rejects pairs of episodes that overlap, or lie in another order than their numbers."""
    last: int | None = None
    for i, span in enumerate(spans):
        if found[i] is not None:
            continue
        if last is not None:
            before = spans[last]
            what = ""
            if span["from_s"] < before["to_s"] - _SAME_FRAME / fps:
                what = "overlaps"
            elif span["episode"] < before["episode"]:
                what = "lies behind"
            if what:
                detail = f"episode {span['episode']} from {_in_words(span)} {what} episode "
                detail += f"{before['episode']} from {_in_words(before)}"
                found[i] = found[last] = _mismatch(detail)
        # A later span may lie inside of an earlier one, so the one that ends last is compared.
        if last is None or span["to_s"] > spans[last]["to_s"]:
            last = i


def _set_places(
    spans: Sequence[Span], found: list[Place | VideoError | None], info: VideoInfo
) -> None:
    """Sets the frame range of every span that has no error yet."""
    fps, open_spans = info.fps, [i for i, flaw in enumerate(found) if flaw is None]
    if not open_spans:
        return
    # Subtract the start of the file's own clock if the time stamps use that clock.
    is_own_clock = spans[open_spans[0]]["from_s"] >= info.first_pts_s - _SAME_FRAME / fps
    base_s = info.first_pts_s if is_own_clock else 0.0
    errors = [abs((s["to_s"] - s["from_s"]) * fps - _length(s, fps)) for s in spans if _is_span(s)]
    last_s = max(spans[i]["to_s"] for i in open_spans) - base_s
    is_beyond = (last_s - info.duration_s) * fps >= _SAME_FRAME
    end, end_s = 0, base_s
    for i in open_spans:
        span = spans[i]
        length = _length(span, fps)
        if abs(span["from_s"] - end_s) * fps >= _SAME_FRAME:  # unlisted episodes lie in between
            steps = (span["from_s"] - base_s) * fps
            # The error of one episode's time stamps grows with the number of episodes before this
            # one.
            may_have_drifted = max(errors) * steps / length
            off = np.abs(info.times_s - (span["from_s"] - base_s)) * fps
            end = int(off.argmin())
            if is_beyond or off[end] > _NEAREST or may_have_drifted > _NEAREST:
                found[i] = _mismatch(
                    f"it begins at {span['from_s']:.3f} s, the frames before it belong to no "
                    f"episode of meta/episodes, the nearest frame is {off[end]:.2f} steps away, "
                    f"and the last episode ends at {last_s:.3f} s of {info.duration_s:.3f}"
                )
                continue
        found[i] = Place(end, length)
        end, end_s = end + length, span["to_s"]


def _is_span(span: Span) -> bool:
    return span["from_s"] is not None and span["to_s"] is not None


def _length(span: Span, fps: float) -> int:
    if span["length"] is not None:
        return int(span["length"])
    return max(1, round((span["to_s"] - span["from_s"]) * fps))
