"""Decodes with FFmpeg through PyAV, in one thread, and cuts damage out. The reference decoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from lafp.video.convert import ToRgb, conversions_of, deinterlaced
from lafp.video.damage import mjpeg_scans, vp8_partitions, vp9_tiles
from lafp.video.damage.gate import DamageGate, Held
from lafp.video.damage.second_decoders import SecondLook, second_look, shows_little
from lafp.video.damage.signs import checking_context, decode, is_libvpx, listen_to_ffmpeg
from lafp.video.decoders.base import (
    DamagedSpan,
    DecodedFrame,
    IsWanted,
    Orientation,
    VideoError,
    VideoInfo,
    measure_rate,
)
from lafp.video.decoders.open_video import can_start_late, limit_pixels, open_video, seek_before
from lafp.video.decoders.packets import (
    Scan,
    clock_may_jump,
    find_trusted_pts,
    is_shown,
    missing_s,
    read_packets,
    scan,
    unread,
)
from lafp.video.decoders.thinning import Thinner, pixels_of
from lafp.video.timeline import MAX_LAST_FRAME_S, FrameClock, Timeline, lay_out

# Pixel aspects outside of this range are wrong: they would squash the picture to a line.
_SANE_PIXEL_ASPECT = (0.25, 4.0)
# Frames that wait for the rest of their group of pictures. Twice as much cost 7 % of the speed.
_MAX_HELD_BYTES = 64 * 2**20
# Number of packets that tell whether frames come in the order of their stamps, and what signs an
# encoder of JPEG or VP9 leaves.
_NUM_TRIED = 64


@dataclass(frozen=True, kw_only=True)
class PyAVConfig:
    """Configures FFmpeg through PyAV. It reads everything that FFmpeg reads, and notices damage."""

    name: Literal["pyav"] = "pyav"
    strict: bool = False
    """Rejects the whole file on any sign of damage, for which everything is decoded twice more.
    docs/corruption.md lists the damage that still goes unnoticed."""


class PyAVDecoder:
    """Decodes with FFmpeg, see ``VideoDecoder``.

    It uses one thread, because FFmpeg flags damaged frames (``is_corrupt``) only without slice
    threads. Parallelism comes from one video per task.
    """

    Config = PyAVConfig

    def __init__(self, cfg: PyAVConfig) -> None:
        self.cfg = cfg
        listen_to_ffmpeg()

    def probe(self, path: str, max_pixels: int, deadline: float) -> VideoInfo:
        """See ``VideoDecoder.probe``."""
        with open_video(path, deadline) as (container, stream):
            context = stream.codec_context
            if context.width * context.height > max_pixels:
                raise VideoError(
                    "too_large", f"{context.width}x{context.height} exceeds {max_pixels} pixels"
                )
            limit_pixels(stream, max_pixels)
            found = scan(container, stream, deadline)
            first = found.first
            if not len(found.stamps.pts):
                raise VideoError(
                    "no_frames", f"the header promises {stream.frames} frames, none exist"
                )
            if first is None:
                detail = f"none of {found.num_packets} packets decodes"
                raise VideoError("does_not_decode", detail)
            timeline = _timeline(path, container, stream, found, deadline)
            declared_fps = float(stream.average_rate) if stream.average_rate else None
            # Only one of two frames at the same time is shown (`DamageGate.check`).
            times_s = np.unique(timeline.times_s)
            last_frame_s = timeline.last_frame_s
            is_known = 0 < last_frame_s <= MAX_LAST_FRAME_S
            if len(times_s) == 1 and is_known:  # only its packet says how long it lasts
                declared_fps = declared_fps or 1 / last_frame_s
            fps, is_constant = measure_rate(times_s, declared_fps)
            # Packets state their durations in rounded numbers. At a constant rate the rate is more
            # exact.
            if is_constant or not is_known:
                last_frame_s = 1 / fps
            duration_s = float(times_s[-1]) + last_frame_s
            end_s = duration_s + timeline.recordings[-1].origin_s
            orientation = _orientation(first)
            width_px, height_px = _display_size(first, stream, orientation)
            info = VideoInfo(
                codec=context.codec.canonical_name,
                width_px=width_px,
                height_px=height_px,
                coded_size=(first.width, first.height),
                max_pixels=max_pixels,
                orientation=orientation,
                times_s=times_s,
                timeline=timeline,
                first_pts_s=timeline.recordings[0].origin_s,
                fps=fps,
                is_constant_rate=is_constant,
                duration_s=duration_s,
                declared_duration_s=duration_s
                + missing_s(container, stream, found.num_packets, fps, end_s),
                tiny_share=found.tiny_share,
                can_start_late=(
                    can_start_late(container, stream) and timeline.is_plain and not self.cfg.strict
                ),
                hides_damage=context.codec.canonical_name == "h264",
                is_of_libvpx=_is_of_libvpx(path, context, max_pixels, deadline),
                usual_signs=_usual_signs(path, context, max_pixels, deadline),
                conversions=conversions_of(first),
                unread=unread(container, found.end_byte, deadline),
            )
        if self.cfg.strict:
            self._refuse_damage(path, info, deadline)
        return info

    def frames(
        self,
        path: str,
        info: VideoInfo,
        width_px: int,
        height_px: int,
        deadline: float,
        start_s: float = 0.0,
        is_wanted: IsWanted | None = None,
        is_suspect: bool = False,
    ) -> Iterator[DecodedFrame | DamagedSpan]:
        """See ``VideoDecoder.frames``."""
        to_rgb = ToRgb(width_px, height_px, info.orientation, info.coded_size)
        thinner = Thinner(to_rgb, is_wanted) if is_wanted else None
        sound = self._sound_frames(path, info, deadline, start_s, thinner, is_suspect)
        for event in deinterlaced(sound):
            if isinstance(event, DamagedSpan):
                yield event
            else:
                yield DecodedFrame(event.time_s, partial(pixels_of, event, to_rgb))

    def _sound_frames(
        self,
        path: str,
        info: VideoInfo,
        deadline: float,
        start_s: float,
        thinner: Thinner | None = None,
        is_suspect: bool = False,
    ) -> Iterator[Held | DamagedSpan]:
        assert info.timeline is not None, "a file's probe lays its packets out"
        clock = FrameClock(info.timeline)
        with open_video(path, deadline) as (container, stream):
            if start_s:
                seek_before(container, stream, info.timeline.recordings[0].origin_s + start_s)
            # No frame may be larger than the probe's caller accepted.
            limit_pixels(stream, info.max_pixels)
            context, second = checking_context(stream), None
            gate = DamageGate(
                info,
                clock,
                _MAX_HELD_BYTES,
                shows_little=shows_little(info, context),
                marks_keys=not is_libvpx(context),
            )
            for packet, missing in read_packets(container, stream, deadline):
                if clock.is_before_joint(0) and is_shown(packet):
                    # The last frames of a recording still wait in the decoder. They leave before
                    # the gate hears of the next recording, because they belong to this one.
                    yield from _checked(decode(context, None)[0], gate, second, thinner)
                    gate.part("another recording begins")
                    # Frames of the next recording do not depend on earlier ones.
                    context, second = checking_context(stream), None
                    context.flush_buffers()
                if packet.is_keyframe and is_libvpx(context) and gate.is_damaged:
                    context = checking_context(stream)  # libvpx gets stuck after damage
                # A second decoder can only begin at a key frame.
                if packet.is_keyframe and second is None:
                    is_suspect_now = is_suspect or gate.has_cut
                    second = second_look(info, context, is_suspect_now, gate.damaged_share)
                # The gate marks the packet with its group of pictures, and the decoder copies the
                # mark to the frame. So this comes before decoding.
                gate.sent(packet)
                # The second decoder goes first, so that its frame is there when the first decoder's
                # comes out.
                hidden = second.packet_sign(packet) if second else ""
                decoded, sign = decode(context, packet)
                # The gate must know a sign before it sees the frames of the packet, or it might let
                # them pass.
                if found := missing or sign or hidden:
                    gate.found(found)
                yield from _checked(decoded, gate, second, thinner)
            yield from gate.finish()

    def _refuse_damage(self, path: str, info: VideoInfo, deadline: float) -> None:
        """Decodes everything once, with all checks for damage.

        Raises:
            VideoError: There is a sign of damage.
        """
        if info.declared_duration_s > info.duration_s + 1 / info.fps:
            raise VideoError("damaged", "strict: the header promises more than the file holds")
        for event in self._sound_frames(path, info, deadline, 0.0, is_suspect=True):
            if isinstance(event, DamagedSpan):
                raise VideoError("damaged", f"strict: at {event.start_s:.3f} s {event.detail}")


def _checked(
    frames: list[VideoFrame], gate: DamageGate, second: SecondLook | None, thinner: Thinner | None
) -> Iterator[Held | DamagedSpan]:
    """Passes frames through the gate as they come."""
    for frame in frames:
        yield from gate.check(frame, second.frame_sign(frame) if second else "")
        if thinner:
            thinner.look(gate)


def _timeline(
    path: str, container: InputContainer, stream: VideoStream, found: Scan, deadline: float
) -> Timeline:
    trusted_pts = find_trusted_pts(container, stream, found.stamps)
    lay = partial(
        lay_out,
        found.stamps,
        can_jump=clock_may_jump(container),
        # FFmpeg assumes 25 frames per second too for raw streams that state no rate.
        otherwise_step_s=1 / float(stream.average_rate or stream.guessed_rate or 25),
    )
    timeline = lay(trusted_pts=trusted_pts or "all")
    if trusted_pts is None:
        # Only frames of the first recording are compared, because the clock of the next one may go
        # back.
        ends = [recording.first_packet for recording in timeline.recordings[1:]]
        if not _comes_in_order(path, min([_NUM_TRIED, *ends]), deadline):
            timeline = lay(trusted_pts="none")
    return timeline


def _comes_in_order(path: str, num_packets: int, deadline: float) -> bool:
    """Says whether the first frames come in the order of their presentation times."""
    with open_video(path, deadline) as (container, stream):
        pts = [
            frame.pts
            for packet, _ in islice(read_packets(container, stream, deadline), num_packets)
            for frame in decode(stream.codec_context, packet)[0]
        ]
    return all(a is not None and b is not None and a < b for a, b in pairwise(pts))


def _is_of_libvpx(path: str, context: VideoCodecContext, max_pixels: int, deadline: float) -> bool:
    if context.codec.canonical_name != "vp8" or vp8_partitions.parser() is None:
        return False
    return vp8_partitions.is_of_libvpx(_coded_frames(path, deadline), max_pixels)


def _usual_signs(path: str, context: VideoCodecContext, max_pixels: int, deadline: float) -> int:
    tried = islice(_coded_frames(path, deadline), _NUM_TRIED)
    if context.codec.canonical_name == "vp9" and vp9_tiles.parser() is not None:
        return vp9_tiles.usual_signs(tried, max_pixels)
    if context.codec.canonical_name == "mjpeg" and mjpeg_scans.parser() is not None:
        return mjpeg_scans.usual_signs(tried)
    return 0


def _coded_frames(path: str, deadline: float) -> Iterator[bytes]:
    with open_video(path, deadline) as (container, stream):
        for packet, _ in read_packets(container, stream, deadline):
            if packet.size:
                yield bytes(packet)


_QUARTER_TURNS = (
    Orientation(),
    Orientation(is_turned=True, flip_y=True),
    Orientation(flip_x=True, flip_y=True),
    Orientation(is_turned=True, flip_x=True),
)
"""Counter-clockwise turns by 0, 90, 180 and 270 degrees."""


def _orientation(frame: VideoFrame) -> Orientation:
    """Reads the display matrix: x' = a x + c y, y' = b x + d y (libavutil/display.h)."""
    try:
        side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:
        # PyAV 18 refuses all side data of a frame if it does not know the type of one, such as the
        # EXIF data of a JPEG or the views of a spatial video. It still tells the angle, but not
        # whether the picture is mirrored.
        degrees = frame.rotation  # another number than an angle if the matrix has none
        return _QUARTER_TURNS[round(degrees / 90) % 4 if abs(degrees) <= 180 else 0]
    if side_data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(side_data, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(is_turned=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(flip_x=a < 0, flip_y=d < 0)


def _display_size(
    frame: VideoFrame, stream: VideoStream, orientation: Orientation
) -> tuple[int, int]:
    aspect = float(stream.sample_aspect_ratio or 1)
    if not _SANE_PIXEL_ASPECT[0] <= aspect <= _SANE_PIXEL_ASPECT[1]:
        aspect = 1.0
    # One side grows and none shrinks, so that square pixels lose no pixel of the source.
    width = round(frame.width * max(aspect, 1))
    height = round(frame.height / min(aspect, 1))
    return (height, width) if orientation.is_turned else (width, height)
