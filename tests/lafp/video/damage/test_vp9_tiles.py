"""The parser of VP9: exact on sound frames, safe on hostile ones."""

import shutil
from fractions import Fraction
from functools import cache
from random import Random

import av
import numpy as np
import pytest

from lafp.video.damage import vp9_tiles
from lafp.video.damage.vp9_tiles import Vp9Parser, Vp9Tiles, usual_signs
from tests.lafp.video.damage.sanitized import assert_touches_no_memory_of_others
from tests.synthetic_video import moving_square

MAX_PIXELS = 1 << 20
FAST = {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"}
GOOD = {"deadline": "good", "cpu-used": "4", "b": "150k"}
HIDDEN = {"deadline": "realtime", "cpu-used": "7", "auto-alt-ref": "1", "lag-in-frames": "16"}
# Width, height, pixels, options of the encoder. Together they use every part of the format that the
# encoder knows, but for frames of another size.
SETTINGS = {
    "short groups": (176, 144, "yuv420p", FAST | {"g": "3"}),
    "slow": (176, 144, "yuv420p", GOOD),
    "hidden frames": (176, 144, "yuv420p", HIDDEN | {"b": "150k"}),
    "tiles": (640, 160, "yuv420p", FAST | {"tile-columns": "2", "tile-rows": "2"}),
    "segments": (176, 144, "yuv420p", FAST | {"aq-mode": "1"}),
    "segments over time": (176, 144, "yuv420p", FAST | {"aq-mode": "3", "b": "40k"}),
    "resilient": (176, 144, "yuv420p", FAST | {"error-resilient": "1"}),
    "parallel": (176, 144, "yuv420p", FAST | {"frame-parallel": "1"}),
    "lossless": (64, 64, "yuv420p", FAST | {"crf": "0", "lossless": "1"}),
    "odd size": (97, 67, "yuv420p", FAST | {"crf": "5"}),
    "tiny": (2, 1, "yuv420p", FAST),
    "4:4:4": (97, 67, "yuv444p", FAST | {"crf": "5"}),
    "4:2:2": (97, 67, "yuv422p", GOOD),
    "4:4:0": (97, 67, "yuv440p", FAST | {"crf": "5"}),
    "RGB": (64, 64, "gbrp", FAST),
}


@pytest.fixture(autouse=True)
def built():
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    assert vp9_tiles.parser(), "run `pip install -e .`: the VP9 parser is not compiled"


@cache
def coded(name: str, num_frames=16) -> list[bytes]:
    """Packets of noise below a moving square."""
    width, height, pixel_format, options = SETTINGS[name]
    context = av.CodecContext.create("libvpx-vp9", "w")
    context.width, context.height, context.pix_fmt = width, height, pixel_format
    context.framerate, context.time_base = 15, Fraction(1, 15)
    context.options, context.thread_count = options, 1
    noise = np.random.default_rng(0).integers(0, 60, (max(height, 16), max(width, 16), 3), np.uint8)
    packets = []
    for i, pixels in enumerate(moving_square(num_frames, *noise.shape[:2]) // 2 + noise):
        frame = av.VideoFrame.from_ndarray(pixels).reformat(width, height, pixel_format)
        frame.pts = i
        packets += context.encode(frame)
    return [bytes(packet) for packet in packets + context.encode(None)]


def signs(packets: list[bytes]) -> list[int]:
    vp9 = Vp9Parser(MAX_PIXELS)
    return [vp9.parse(data) for data in packets]


def share_noticed(packets: list[bytes], first: int, rng: Random, usual=0, num_tries=60) -> float:
    """How often another byte in one of the packets from a number on is noticed at once."""
    num_noticed = 0
    for _ in range(num_tries):
        i = rng.randrange(first, len(packets))
        damaged, at = bytearray(packets[i]), rng.randrange(len(packets[i]) // 10, len(packets[i]))
        damaged[at] ^= rng.randrange(1, 256)
        num_noticed += signs([*packets[:i], bytes(damaged)])[-1] & ~usual != 0
    return num_noticed / num_tries


@pytest.mark.parametrize("name", SETTINGS)
def test_sound_frames_show_no_sign(name):
    packets = coded(name, 40 if name == "hidden frames" else 16)
    assert set(signs(packets)) == {0}
    assert usual_signs(packets, MAX_PIXELS) == 0


@pytest.mark.parametrize("name", ["short groups", "slow", "tiles", "resilient", "parallel"])
def test_another_byte_in_any_frame_is_noticed(name):
    packets = coded(name)
    # What a header says of filters, quantizers and reference frames shows nowhere.
    assert share_noticed(packets, 1, Random(0)) >= 0.9


def is_superframe(data: bytes) -> bool:
    return data[-1] & 0b11100000 == 0b11000000


def test_another_byte_in_a_real_file_is_noticed(shared_videos):
    path = shared_videos / "internet" / "media__bbb_642x642_768kbps_30fps_vp9.webm"
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    assert set(signs(packets)) == {0}
    assert share_noticed(packets[:20], 1, Random(0)) >= 0.97


def hidden_size(data: bytes) -> int:
    """Size of the first of two frames."""
    num_bytes = 1 + (data[-1] >> 3 & 3)
    return int.from_bytes(data[-1 - 2 * num_bytes :][:num_bytes], "little")


def test_damage_in_a_hidden_frame_is_noticed():
    packets, rng = coded("hidden frames", 40), Random(0)
    i = next(i for i, data in enumerate(packets) if i and is_superframe(data))
    num_noticed = 0
    for _ in range(40):
        damaged = bytearray(packets[i])
        damaged[rng.randrange(20, hidden_size(packets[i]))] ^= rng.randrange(1, 256)
        num_noticed += signs([*packets[:i], bytes(damaged)])[-1] != 0
    assert num_noticed >= 38


def test_after_damage_only_a_key_frame_is_sound():
    packets = coded("short groups", 9)
    found = signs([*packets[:3], packets[3][:-30], *packets[4:]])  # the key frame is cut off
    assert not any(found[:3]) and all(found[3:6]) and not any(found[6:])


def test_missing_packets_are_noticed():
    packets = coded("segments")
    assert any(signs(packets[:5] + packets[6:]))


def test_a_packet_that_repeats_a_frame_is_sound():
    packets, repeats = coded("resilient", 2), bytes((0b10001000,))
    look = Vp9Tiles(MAX_PIXELS, 0)
    assert look.packet_sign(av.Packet(repeats))  # none has been decoded
    for data in (packets[0], repeats, packets[1]):
        assert look.packet_sign(av.Packet(data)) == ""


def test_an_index_of_frames_must_fit():
    packets = coded("resilient", 2)
    sizes = b"".join(len(data).to_bytes(2, "little") for data in packets)
    marker = bytes((0b11000000 | 1 << 3 | 1,))
    frames = b"".join(packets)
    assert signs([frames + marker + sizes + marker]) == [0]
    assert all(signs([frames + marker + sizes[::-1] + marker]))
    assert all(signs([frames + sizes + marker]))
    assert all(signs([marker, b""]))


@pytest.mark.parametrize("num_bytes", [4, 16, 40])
def test_data_that_fill_up_a_tile_are_no_damage(num_bytes):
    packets = [data + bytes(-len(data) % num_bytes) for data in coded("resilient")]
    assert set(signs(packets)) == {0}


# Garbage that ends in the padding goes unnoticed, so long padding hides more.
@pytest.mark.parametrize(("padding", "share"), [(b"rest", 0.9), (bytes(100), 0.4)])
def test_what_most_frames_have_behind_their_last_symbol_is_the_habit_of_their_encoder(
    padding, share
):
    packets = [data + padding for data in coded("resilient")]
    assert all(signs(packets))
    usual = usual_signs(packets, MAX_PIXELS)
    look = Vp9Tiles(MAX_PIXELS, usual)
    assert not any(look.packet_sign(av.Packet(data)) for data in packets)
    assert share_noticed(packets, 1, Random(0), usual) >= share


def test_a_habit_need_not_show_in_every_frame():
    packets = coded("resilient", 40)
    for i in (*range(1, 10), *range(11, 40, 2)):
        packets[i] += bytes(100)
    assert signs(packets).count(0) > 2
    usual = usual_signs(packets, MAX_PIXELS)
    assert not any(sign & ~usual for sign in signs(packets))


def test_long_data_behind_the_last_symbol_are_no_habit():
    packets = [data + b"rest" * 10 for data in coded("resilient")]
    assert usual_signs(packets, MAX_PIXELS) == 0


def test_a_tile_whose_end_was_overwritten_with_zeros_is_noticed():
    key = coded("resilient")[0]
    for num_bytes in (100, 1000, len(key) // 2):
        assert signs([key[:-num_bytes] + bytes(num_bytes)]) != [0]


def test_damage_of_every_frame_is_no_habit():
    packets = coded("resilient", 10)
    assert usual_signs([data[: len(data) // 2] for data in packets], MAX_PIXELS) == 0
    assert usual_signs([data[: len(data) // 2] + b"x" * 100 for data in packets], MAX_PIXELS) == 0
    assert usual_signs([], MAX_PIXELS) == 0


def test_frames_beyond_the_limit_are_not_parsed():
    (data,) = coded("tiles", 1)
    assert Vp9Parser(640 * 160).parse(data) == 0
    assert Vp9Parser(640 * 160 - 1).parse(data) != 0


def test_hostile_frames_touch_no_memory_that_is_not_theirs(tmp_path):
    names = ("short groups", "hidden frames", "tiles", "segments over time", "4:4:4", "4:4:0")
    packets = [data for name in names for data in coded(name, 6)]
    assert_touches_no_memory_of_others("vp9", packets, 12, tmp_path)
