"""The parser of VP8: exact on sound frames, safe on hostile ones."""

import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest

from lafp.video.damage import vp8_partitions
from lafp.video.damage.vp8_partitions import Vp8Parser, is_of_libvpx
from tests.lafp.video.damage.sanitized import assert_touches_no_memory_of_others
from tests.synthetic_video import moving_square

SOURCE = Path(vp8_partitions.__file__).with_name("vp8_entropy.c")
SETTINGS = (
    {"deadline": "realtime", "cpu-used": "8", "b": "300k"},
    {"deadline": "realtime", "cpu-used": "8", "error-resilient": "partitions", "slices": "8"},
    {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "10"},
    {"deadline": "realtime", "cpu-used": "8", "crf": "4", "b": "4M", "g": "5"},
)


@pytest.fixture(autouse=True)
def built():
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    assert vp8_partitions.parser(), "run `pip install -e .`: the VP8 parser is not compiled"


def coded(options, num_frames=12) -> list[bytes]:
    """Frames of a moving square, 176x144."""
    context = av.CodecContext.create("libvpx", "w")
    context.width, context.height, context.pix_fmt = 176, 144, "yuv420p"
    context.framerate, context.time_base, context.options = 15, Fraction(1, 15), options
    frames = [av.VideoFrame.from_ndarray(x) for x in moving_square(num_frames, 144, 176)]
    packets = []
    for i, frame in enumerate(frames):
        frame = frame.reformat(format="yuv420p")
        frame.pts = i
        packets += context.encode(frame)
    return [bytes(packet) for packet in packets + context.encode(None)]


def real(shared_videos) -> list[bytes]:
    path = shared_videos / "internet" / "learning-area__videos_elf.webm"
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.video[0]) if p.size]


@pytest.mark.parametrize("options", SETTINGS)
def test_all_partitions_of_libvpx_end_in_8_to_16_zero_bits(options):
    parser = Vp8Parser(1 << 20)
    for data in coded(options):
        ends = parser.parse(data)
        assert ends and all(8 <= spare <= 16 and not rest for spare, rest in ends)


def test_one_byte_overwritten_anywhere_in_a_real_file_is_noticed(shared_videos):
    frames = real(shared_videos)
    num_noticed = num_tried = 0
    for i in range(1, 30):
        for part in range(3, 10):
            parser = Vp8Parser(1 << 26)
            for data in frames[:i]:
                parser.parse(data)
            broken = bytearray(frames[i])
            broken[part * len(broken) // 10] ^= 0x55
            ends = parser.parse(bytes(broken))
            is_sound = ends is not None and all(8 <= s <= 16 and not rest for s, rest in ends)
            num_noticed, num_tried = num_noticed + (not is_sound), num_tried + 1
    assert num_noticed == num_tried


def test_frames_that_end_in_another_way_are_of_another_encoder():
    frames = coded(SETTINGS[0])
    assert is_of_libvpx(frames, 1 << 20)
    assert not is_of_libvpx([data + b"\0\0\0" for data in frames], 1 << 20)
    # Garbage does not end anywhere near: this is damage, and every frame shows it.
    broken = [data[: len(data) // 2] + bytes(len(data) // 2) for data in frames]
    assert is_of_libvpx(broken, 1 << 20)


def test_frames_beyond_the_limit_are_not_parsed():
    frame = bytearray(coded(SETTINGS[0], 1)[0])
    assert Vp8Parser(1 << 20).parse(bytes(frame))
    frame[6:10] = struct.pack("<HH", 16383, 16383)
    assert Vp8Parser(1 << 20).parse(bytes(frame)) is None


def test_hostile_frames_touch_no_memory_that_is_not_theirs(tmp_path):
    data = [data for options in SETTINGS for data in coded(options, 6)]
    assert_touches_no_memory_of_others("vp8", data, 60, tmp_path)
