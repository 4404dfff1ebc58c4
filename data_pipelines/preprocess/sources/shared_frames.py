"""Decodes one file once for all of the episodes in it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from data_pipelines.preprocess.sources.opened import OpenWith
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError, VideoInfo


class SharedFrames:
    """Decodes a file once for all of its episodes, which must be requested in order."""

    def __init__(self, path: str, info: VideoInfo, using: OpenWith) -> None:
        self._path, self._info, self._using = path, info, using
        self._events: Iterator[DecodedFrame | DamagedSpan] | None = None
        self._ahead: DecodedFrame | DamagedSpan | None = None
        """An event that was read already, but also belongs to a later episode."""
        self._error: VideoError | None = None

    def frames(
        self, start_s: float, part: VideoInfo, width_px: int, height_px: int
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        """Yields the events that a video decoder would yield for the episode alone."""
        # Times are moved by the start and so rounded. A quarter of the smallest gap covers that,
        # and cannot reach the next frame.
        slack_s = 0.25 * min(1 / self._info.fps, np.diff(self._info.times_s).min(initial=np.inf))
        end_s = start_s + part.duration_s
        while (event := self._next(width_px, height_px)) is not None:
            if isinstance(event, DecodedFrame):
                if event.time_s > end_s - slack_s:
                    self._ahead = event
                    return
                if event.time_s >= start_s - slack_s:
                    yield DecodedFrame(max(event.time_s - start_s, 0.0), event.pixels)
            else:
                low_s, high_s = max(event.start_s, start_s), min(event.end_s, end_s)
                if event.end_s > end_s:
                    self._ahead = event
                if high_s > low_s:
                    yield replace(event, start_s=low_s - start_s, end_s=high_s - start_s)
                if event.end_s > end_s:
                    return

    def _next(self, width_px: int, height_px: int) -> DecodedFrame | DamagedSpan | None:
        if self._ahead is not None:
            event, self._ahead = self._ahead, None
            return event
        if self._error is not None:
            raise self._error  # the file broke earlier, so every later episode in it fails
        if self._events is None:
            self._events = self._using.video_decoder.frames(
                self._path, self._info, width_px, height_px, self._using.deadline
            )
        try:
            return next(self._events, None)
        except VideoError as error:
            self._error = error
            raise
