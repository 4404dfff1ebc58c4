"""Makes FFmpeg's decoders show signs of damage, codec by codec.

Pictures are not judged by their content (but see ``seams.py``), because flashes, cuts and fast
motion are no damage. For codes of variable length, blocks that jump from one frame to the next were
tried, by themselves and compared with their neighbours. Undetected damage is off by 8 to 130 of 255
in its worst block, but half of the undamaged groups of the same clips have jumps of 43 and more.
"""

import logging
from typing import cast

import av
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# libvpx notices 97 of 100 overwritten bytes in small VP9 where FFmpeg's own decoder notices 19.
STRICTER_DECODERS = {"vp9": "libvpx-vp9"}
# WebM stores transparency as side data of each packet, which only libvpx reads.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# Profiles of more than 8 bits, such as all HDR. PyAV's libvpx is built without them.
_DEEP_PROFILES = ("Profile 2", "Profile 3")
# Checks that FFmpeg does not make by default. Not "aggressive" for all codecs, which refuses sound
# MPEG-4 of old encoders, and not "explode", which loses frames decoded before: the log says the
# same.
# MPEG-1 and 2 without "bitstream", which takes the zeros that fill up a constant rate for damage,
# and then replaces sound blocks. Other bits where a picture has ended are an error without it too.
CHECKS = {
    "": "crccheck+bitstream+buffer",
    "h264": "crccheck+aggressive",
    "mpeg1video": "crccheck",
    "mpeg2video": "crccheck",
}
# Messages on data that no pixel depends on. Sound files of careless encoders show them.
_HARMLESS = (
    "SEI type",  # H.264 and HEVC: user data, captions, times
    "Overread VUI",  # H.264: rates and colours
    "ext header missing",  # MS-MPEG4: rates
)


def listen_to_ffmpeg() -> None:
    """Makes FFmpeg log the messages that ``decode`` reads, and keeps them off the terminal."""
    av.logging.set_level(av.logging.INFO)
    # A repeated message may be the sign of another damaged packet, so each one counts.
    av.logging.set_skip_repeated(False)
    logging.getLogger("libav").propagate = False
    logging.getLogger("libav").addHandler(logging.NullHandler())


def checking_context(stream: VideoStream) -> VideoCodecContext:
    """Returns the decoder that notices most damage, with all of its checks on."""
    context = stream.codec_context
    options = {**context.options, "err_detect": CHECKS.get(context.name, CHECKS[""])}
    name = STRICTER_DECODERS.get(context.name)
    if stream.metadata.get("alpha_mode") == "1":
        name = _ALPHA_DECODERS.get(context.name, name)
    if name and context.profile not in _DEEP_PROFILES:
        stricter = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
        stricter.extradata, stricter.thread_count = context.extradata, 1
        stricter.color_trc = context.color_trc  # only the container knows it
        context = stricter
    context.options = options
    context.flags |= Flags.copy_opaque  # which packet a frame comes from
    return context


def is_libvpx(context: VideoCodecContext) -> bool:
    """Says whether the decoder is libvpx, which marks no key frames and gets stuck on damage."""
    return context.name in (*STRICTER_DECODERS.values(), *_ALPHA_DECODERS.values())


def decode(context: VideoCodecContext, packet: Packet | None) -> tuple[list[VideoFrame], str]:
    """Decodes a packet; None flushes the decoder.

    Returns:
        The frames that come out now; the first sign of damage that FFmpeg raises or logs, or "".
    """
    frames: list[VideoFrame] = []
    sign = ""
    with av.logging.Capture() as messages:
        try:
            frames = context.decode(packet)
        except av.FFmpegError as error:
            sign = f"a packet does not decode: {error.args[1]}"
    for level, _, message in messages:
        is_sign = level <= av.logging.WARNING and not message.startswith(_HARMLESS)
        if is_sign or message.startswith("concealing"):
            sign = sign or f"FFmpeg: {message.strip()}"
    return frames, sign
