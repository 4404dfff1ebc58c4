"""Joins clips in mp4 files: their packets are copied, so that no picture changes."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from data_pipelines.to_lerobot.layout import CAMERA, MAX_VIDEO_MB, VIDEOS, place
from lafp import storage
from lafp.video.clip_codec import open_clip

# LeRobot compares times in float32, within 0.1 ms. Beyond 1,024 s its steps are larger than that.
_MAX_FILE_S = 1000.0


@dataclass(frozen=True, kw_only=True)
class Span:
    """Says where the first frames of a clip lie."""

    file: int
    start_s: float


class VideoFiles:
    """Writes the video files of a dataset one after the other.

    A new file begins when one has its size, and where the codec's header differs from the header in
    the file.

    Args:
        out: URI of the dataset.
        fps: Frames per second of all clips.
        folder: Local folder for the file that is being written.
    """

    def __init__(self, out: str, fps: float, folder: Path) -> None:
        self._out, self._path = out, folder / "video.mp4"
        # ``encode_clip`` rounds the rate in this way too.
        self._rate = Fraction(fps).limit_denominator(10_000)
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._header: bytes | None = None
        self.pixel_format = ""
        """Pixel format of the newest file."""
        self._file, self._num_frames, self._num_bytes = -1, 0, 0

    def add(self, video: bytes, num_frames: int) -> Span:
        """Appends the first frames of a clip.

        Raises:
            ValueError: ``video`` holds no decodable video, or fewer frames. Nothing was appended.
        """
        with open_clip(video) as (source, packets):
            if len(packets) < num_frames:
                raise ValueError(f"the clip has {len(packets)} frames, expected {num_frames}")
            header = source.codec_context.extradata
            if not self._has_room(len(video), num_frames) or header != self._header:
                self._begin_file(source)
                self._header = header
                self.pixel_format = source.codec_context.pix_fmt or ""
            assert self._container is not None and self._stream is not None
            start = self._num_frames
            for packet in packets[:num_frames]:
                packet.stream, packet.time_base = self._stream, 1 / self._rate
                packet.pts = packet.dts = self._num_frames
                packet.duration = 1
                self._container.mux(packet)
                self._num_frames += 1
            self._num_bytes += len(video)
            return Span(file=self._file, start_s=float(start / self._rate))

    def _has_room(self, num_bytes: int, num_frames: int) -> bool:
        return (
            self._container is not None
            and self._num_bytes + num_bytes <= MAX_VIDEO_MB * 2**20
            and (self._num_frames + num_frames) / self._rate <= _MAX_FILE_S
        )

    def _begin_file(self, source: av.VideoStream) -> None:
        self.close()
        self._file += 1
        # The index stands at the beginning, so that a player on the web need not fetch the end.
        self._container = av.open(
            str(self._path), "w", format="mp4", container_options={"movflags": "faststart"}
        )
        self._stream = self._container.add_stream_from_template(source)
        self._stream.time_base = 1 / self._rate

    def close(self) -> None:
        """Stores the file that is being written."""
        if self._container is None:
            return
        self._container.close()
        self._container = None
        uri = storage.join(self._out, VIDEOS.format(video_key=CAMERA, **place(self._file)))
        storage.upload(self._path, uri)
        self._num_frames = self._num_bytes = 0
