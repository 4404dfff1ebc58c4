"""The parser of JPEG pictures: exact on sound ones of many encoders, safe on hostile ones."""

import io
import shutil
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from lafp.video.damage import mjpeg_scans
from lafp.video.damage.mjpeg_scans import MjpegParser, MjpegScans, usual_signs
from lafp.video.damage.signs import CHECKS, decode, listen_to_ffmpeg
from tests.lafp.video.damage.sanitized import assert_touches_no_memory_of_others

SOURCE = Path(mjpeg_scans.__file__).with_name("mjpeg_entropy.c")
DHT, DRI, SOS = b"\xff\xc4", b"\xff\xdd", b"\xff\xda"


@pytest.fixture(autouse=True)
def built():
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    assert mjpeg_scans.parser(), "run `pip install -e .`: the JPEG parser is not compiled"


def pictures(height=67, width=101):
    """Noise, black and white at their hardest, text, and areas of one value."""
    rng = np.random.default_rng(0)
    yield rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    yield rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
    text = np.zeros((height, width, 3), np.uint8)
    for y in range(8, height, 12):
        cv2.putText(text, "Hgq%$@ text", (y, y), 0, 0.4, (255, 255, 255), 1)
    yield from (text, 255 - text)


def smooth(height=96, width=128):
    """A picture as cameras make them."""
    rng = np.random.default_rng(1)
    noise = cv2.GaussianBlur(rng.random((height, width, 3)), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def of_ffmpeg(picture, pixel_format="yuvj420p", num_threads=1, **options) -> bytes:
    context = av.CodecContext.create("mjpeg", "w")
    context.height, context.width = picture.shape[:2]
    context.pix_fmt, context.thread_count = pixel_format, num_threads
    context.framerate, context.time_base, context.options = 25, Fraction(1, 25), options
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixel_format)
    frame.pts = 0
    (packet,) = [*context.encode(frame), *context.encode(None)]
    return bytes(packet)


def of_pillow(picture, mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def without(data: bytes, marker: bytes) -> bytes:
    """Drops the segments of a marker."""
    while (at := data.find(marker)) >= 0:
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    return data


@pytest.mark.parametrize("pixel_format", ["yuvj420p", "yuvj422p", "yuvj444p"])
@pytest.mark.parametrize("num_threads", [1, 2])  # with two threads each row of blocks restarts
def test_sound_pictures_of_ffmpeg_show_no_sign(pixel_format, num_threads):
    for picture, huffman, scale in product(pictures(), ("default", "optimal"), ("118", "3658")):
        options = {"huffman": huffman, "flags": "+qscale", "global_quality": scale, "qmin": "1"}
        data = of_ffmpeg(picture, pixel_format, num_threads, **options)
        assert (DRI in data) == (num_threads == 2)
        assert MjpegParser().parse(data) == 0


@pytest.mark.parametrize("quality", [1, 10, 50, 90, 99])
def test_sound_pictures_of_libjpeg_show_no_sign(quality):
    settings = [
        *({"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"optimize": True}),
        *({"restart_marker_blocks": 1}, {"restart_marker_blocks": 7}, {"restart_marker_rows": 1}),
        *({"mode": "L"}, {"mode": "CMYK"}),
    ]
    for picture, options in product(pictures(), settings):
        assert MjpegParser().parse(of_pillow(picture, quality=quality, **options)) == 0, options


def test_what_containers_and_cameras_add_is_no_sign():
    data = of_ffmpeg(smooth(), huffman="default")
    jpeg = MjpegParser()
    assert jpeg.parse(without(data, DHT)) == 0  # as in many AVI files
    assert jpeg.parse(data + bytes(3)) == jpeg.parse(data + b"\xff\xff\0\0") == 0
    assert jpeg.parse(data + data) == jpeg.parse(data + bytes(5) + data) == 0  # two fields
    assert jpeg.parse(data.replace(DHT, b"\xff\xff" + DHT)) == 0  # fill bytes
    assert jpeg.parse(data[:2] + b"\xff\xe1\0\x0a" + data[:8] + data[2:]) == 0  # a thumbnail
    assert jpeg.parse(data[:-2]) == 0  # FFmpeg itself says that the end is missing
    zeros = bytearray(data)
    zeros[-3] &= 0xFF << padding_bits(data)
    assert jpeg.parse(bytes(zeros)) == 0


def padding_bits(data: bytes) -> int:
    """How many bits of the last byte are padding: from where on a changed bit is BAD_PADDING."""
    for num in range(7, 1, -1):
        changed = bytearray(data)
        changed[-3] ^= 1 << (num - 1)
        if MjpegParser().parse(bytes(changed)) == 32:
            return num
    return 0


def test_each_sign_of_damage_is_told():
    data = of_pillow(smooth(), restart_marker_rows=1)
    first = data.index(SOS) + 14
    restart = data.index(b"\xff\xd1")
    jpeg = MjpegParser()
    assert jpeg.parse(data) == 0
    assert jpeg.parse(data[:restart] + b"\xff\xd3" + data[restart + 2 :]) == 8
    assert jpeg.parse(data[: restart - 6] + data[restart:]) & (2 | 4)
    assert jpeg.parse(data[:restart] + b"\x12" + data[restart:]) & 16
    assert jpeg.parse(data[:first] + b"\xff\0" * 6 + data[first + 12 :]) & (2 | 4)
    assert jpeg.parse(b"") == jpeg.parse(b"no picture") == 128
    assert jpeg.parse(of_pillow(smooth(), progressive=True)) == 1


def test_damage_is_noticed_where_ffmpeg_sees_nothing():
    """The share depends on the picture: test_gate.py has one of a real clip."""
    listen_to_ffmpeg()
    picture = smooth()
    rng = np.random.default_rng(0)
    num_visible = num_noticed = num_logged = 0
    for data in (of_pillow(picture), of_ffmpeg(picture), of_ffmpeg(picture, num_threads=2)):
        (clean,), _ = shown(data)
        for _ in range(100):
            broken = bytearray(data)
            broken[rng.integers(data.index(SOS) + 14, len(data))] ^= rng.integers(1, 256)
            frames, sign = shown(bytes(broken))
            if frames and np.abs(frames[0] - clean).max() < 40:
                continue
            num_visible += 1
            num_noticed += MjpegParser().parse(bytes(broken)) > 0
            num_logged += bool(sign)
    assert num_visible > 150
    assert num_noticed > 0.4 * num_visible
    assert num_noticed > 4 * num_logged


def shown(data: bytes) -> tuple[list[np.ndarray], str]:
    """A packet's pictures as FFmpeg decodes them, and its first sign of damage."""
    context = av.CodecContext.create("mjpeg", "r")
    context.options = {"err_detect": CHECKS[""]}
    frames, sign = decode(context, av.Packet(data))
    return [frame.to_ndarray(format="rgb24").astype(int) for frame in frames], sign


def test_habits_of_an_encoder_are_no_damage():
    sound = [of_pillow(picture) for picture in pictures()] * 4
    longer = [data[:-2] + b"\0\0" + data[-2:] for data in sound]
    assert usual_signs(sound) == 0
    assert usual_signs(longer) == 16
    assert usual_signs([*sound[:9], *longer[:7]]) == 0
    # Invalid codes are damage as long as some pictures have none.
    at = sound[0].index(SOS) + 20
    broken = sound[0][:at] + b"\xff\0" * 6 + sound[0][at + 12 :]
    assert usual_signs([sound[0], *[broken] * 15]) == 0
    progressive = of_pillow(smooth(), progressive=True)
    scans = MjpegScans(usual_signs([progressive] * 3))
    assert scans.packet_sign(av.Packet(progressive)) == ""
    scans = MjpegScans(usual_signs(longer))
    assert scans.packet_sign(av.Packet(longer[0])) == ""
    assert "invalid code" in scans.packet_sign(av.Packet(broken))


def test_hostile_pictures_touch_no_memory_that_is_not_theirs(tmp_path):
    data = [of_pillow(picture, restart_marker_blocks=5, quality=30) for picture in pictures()]
    data += [of_ffmpeg(smooth(), huffman=huffman) for huffman in ("default", "optimal")]
    assert_touches_no_memory_of_others("mjpeg", data, 100, tmp_path)
