"""Key frames of VP9: sound ones raise no alarm, and damage that libvpx overlooks is noticed."""

from fractions import Fraction
from random import Random

import av
import numpy as np
import pytest

from lafp.video.damage.vp9_keys import Vp9Keys, tiles
from tests.synthetic_video import moving_square

MAX_PIXELS = 1 << 20
# Width, options of the encoder, number of tiles. With segments and changed filters.
SETTINGS = {
    "one tile": (320, {"g": "3"}, 1),
    "two tiles": (640, {"g": "3"}, 2),
    "four tiles": (1280, {"g": "4"}, 4),
    "segments": (640, {"aq-mode": "1", "g": "3"}, 2),
    "resilient": (640, {"error-resilient": "1", "g": "3"}, 2),
    "lossless": (640, {"crf": "0", "lossless": "1", "g": "3"}, 2),
    "sharp": (640, {"sharpness": "3", "g": "3"}, 2),
}


def coded(width, options, num_frames=12) -> list[tuple[bytes, bool]]:
    """Packets of noise below a moving square, and which of them are key frames."""
    context = av.CodecContext.create("libvpx-vp9", "w")
    context.width, context.height, context.pix_fmt = width, 256, "yuv420p"
    context.framerate, context.time_base = 15, Fraction(1, 15)
    context.options = {"cpu-used": "8", "crf": "20", "b": "0", "tile-columns": "6"} | options
    noise = np.random.default_rng(0).integers(0, 60, (256, width, 3), np.uint8)
    packets = []
    for i, pixels in enumerate(moving_square(num_frames, 256, width) // 2 + noise):
        frame = av.VideoFrame.from_ndarray(pixels).reformat(format="yuv420p")
        frame.pts = i
        packets += context.encode(frame)
    return [(bytes(p), p.is_keyframe) for p in packets + context.encode(None)]


def decoder():
    context = av.CodecContext.create("libvpx-vp9", "r")
    context.thread_count = 1
    return context


def sign(data: bytes) -> str:
    return Vp9Keys(decoder(), MAX_PIXELS).packet_sign(av.Packet(data))


def picture(data: bytes) -> np.ndarray | None:
    """The first picture of a packet; None if libvpx notices that it is damaged."""
    try:
        (frame,) = decoder().decode(av.Packet(data))
    except (av.FFmpegError, ValueError):
        return None
    return frame.to_ndarray(format="gray").astype(int)


@pytest.mark.parametrize("name", SETTINGS)
def test_tiles_of_sound_frames_are_found_and_need_all_of_their_data(name):
    width, options, num_tiles = SETTINGS[name]
    packets = coded(width, options)
    keys = [data for data, is_key in packets if is_key]
    assert len(keys) >= 2
    for data, is_key in packets:
        assert len(tiles(data, MAX_PIXELS)) == (num_tiles - 1 if is_key else 0)
        assert sign(data) == ""


@pytest.mark.parametrize("name", ["one tile", "two tiles", "four tiles"])
def test_damage_that_libvpx_does_not_notice_is_noticed(name):
    width, options, num_tiles = SETTINGS[name]
    data, rng = coded(width, options, 1)[0][0], Random(0)
    sound = picture(data)
    num_hidden = num_found = 0
    for _ in range(40):
        at = rng.randrange(len(data) // 20, len(data))
        damaged = data[:at] + bytes((data[at] ^ rng.randrange(1, 256),)) + data[at + 1 :]
        found = picture(damaged)
        if found is not None and np.abs(found - sound).mean() > 0.5:
            num_hidden += 1
            num_found += sign(damaged) != ""
    assert num_hidden >= 10 if num_tiles > 1 else num_hidden == 0
    assert num_found >= 0.95 * num_hidden


def test_the_first_of_several_frames_in_a_packet_is_checked():
    packets = [data for data, _ in coded(640, {"g": "99"}, 2)]
    sizes = b"".join(len(data).to_bytes(4, "little") for data in packets)
    marker = bytes((0b11000000 | 3 << 3 | len(packets) - 1,))
    index = marker + sizes + marker
    assert sign(b"".join(packets) + index) == ""
    key, rng = packets[0], Random(0)
    num_found = 0
    for _ in range(20):
        at = rng.randrange(len(key) // 20, len(key) // 3)  # in the first tile
        damaged = key[:at] + bytes((key[at] ^ rng.randrange(1, 256),)) + key[at + 1 :]
        num_found += sign(damaged + packets[1] + index) != ""
    assert num_found >= 5


def test_data_that_fill_up_a_tile_are_no_damage():
    """Other encoders may end at a multiple of some bytes."""
    ((data, _),) = coded(640, {}, 1)
    (tile,) = tiles(data, MAX_PIXELS)
    for num_bytes in (1, 16, 48):
        size = (tile.end - tile.start + num_bytes).to_bytes(4, "big")
        filled = data[tile.start : tile.end] + bytes(num_bytes) + data[tile.end :]
        assert sign(data[: tile.start - 4] + size + filled) == ""


def test_frames_that_cannot_be_read_or_are_too_large_have_no_tiles():
    ((data, _),) = coded(640, {}, 1)
    assert tiles(data, MAX_PIXELS) and tiles(data, 640 * 256 - 1) == []
    for num_bytes in range(0, 40):
        assert tiles(data[:num_bytes], MAX_PIXELS) == []
    rng = Random(0)
    for _ in range(2000):
        made = bytearray(data[: rng.randrange(200)])
        for _ in range(rng.randrange(1, 20)):
            if made:
                made[rng.randrange(min(len(made), 40))] = rng.randrange(256)
        tiles(bytes(made), MAX_PIXELS)
        Vp9Keys(decoder(), MAX_PIXELS).packet_sign(av.Packet(bytes(made)))
