"""Opens files with FFmpeg within limits, and seeks in those where that is exact."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from lafp.video.decoders.base import VideoError

# Only real media containers: a playlist that poses as a video must not reach the network or other
# files, or wait for a live stream.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": (
        "mov,mp4,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf,gif,apng,h263,h264,hevc,m4v,"
        "ivf,obu,mxf,rm,nut,dv,wtv,yuv4mpegpipe"
    ),
}
# Containers whose index lists key frames, and codecs that show their damage. These decode to the
# same frames from a key frame on, whatever came before.
_INDEXED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_INDEPENDENT_GOPS = ("h264", "mpeg4", "av1", "vp9")
_SEEK_MARGIN_S = 1.0
# Decoders align their buffers, which takes room beyond the coded size, in pixels per side.
_ALIGNMENT_PX = 256


@contextmanager
def open_video(path: str, deadline: float) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens the best video stream of a file.

    Raises:
        VideoError: ``timeout``, ``not_a_video``, ``no_video_stream`` or ``unsupported_codec``.
    """
    timeout_s = max(0.1, deadline - time.monotonic())
    try:
        # A title that is not UTF-8 is no reason to lose a video, but PyAV raises for it by default.
        container = av.open(
            path, "r", options=_OPEN_OPTIONS, metadata_errors="replace", timeout=timeout_s
        )
    except av.ExitError as error:
        raise VideoError("timeout", "opening the file takes too long") from error
    except av.ArgumentError as error:  # FFmpeg's answer for a format that is not on the list
        formats = _OPEN_OPTIONS["format_whitelist"]
        raise VideoError("not_a_video", f"its format is none of {formats}") from error
    except (av.FFmpegError, ValueError) as error:
        raise VideoError("not_a_video", str(error.args[1] if error.args[1:] else error)) from error
    with container:
        if not container.streams.video:
            kinds = sorted({stream.type for stream in container.streams})
            raise VideoError("no_video_stream", f"streams: {', '.join(kinds) or 'none'}")
        best = container.streams.best("video")  # prefers a video to a cover picture
        stream = best if isinstance(best, VideoStream) else container.streams.video[0]
        if stream.codec_context is None:
            raise VideoError("unsupported_codec", "FFmpeg has no decoder for the video stream")
        if stream.disposition & Disposition.attached_pic:
            raise VideoError("no_video_stream", "its only pictures are a cover")
        # FFmpeg flags damaged frames only without slice threads.
        stream.codec_context.thread_count = 1
        yield container, stream


def can_start_late(container: InputContainer, stream: VideoStream) -> bool:
    """Tells whether decoding may begin at any key frame, and gives the same frames from there."""
    name = stream.codec_context.codec.canonical_name
    return container.format.name in _INDEXED_FORMATS and name in _INDEPENDENT_GOPS


def seek_before(container: InputContainer, stream: VideoStream, time_s: float) -> None:
    """Seeks to a key frame well before ``time_s``, as some frames depend on earlier ones."""
    assert stream.time_base is not None
    stamp = int((time_s - _SEEK_MARGIN_S) / stream.time_base)
    container.seek(stamp, backward=True, any_frame=False, stream=stream)


def limit_pixels(stream: VideoStream, max_pixels: int) -> None:
    """Makes the decoder itself refuse larger frames, whatever the headers say."""
    side = _ALIGNMENT_PX
    context = stream.codec_context
    limit = max(max_pixels, (context.width + side) * (context.height + side))
    context.options = {"max_pixels": str(limit)}
