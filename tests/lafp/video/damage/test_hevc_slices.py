"""The parser of HEVC: exact on sound files, safe on hostile ones."""

import shutil
from random import Random
from types import SimpleNamespace

import av
import numpy as np
import pytest

from lafp.video.damage import hevc_slices
from lafp.video.damage.hevc_slices import HevcParser
from lafp.video.damage.second_decoders import second_look, shows_little
from tests.lafp.video.damage.sanitized import assert_touches_no_memory_of_others
from tests.synthetic_video import moving_square, write_video

MAX_PIXELS = 1 << 22
SETTINGS = {
    "wavefronts": ("yuv420p", "bframes=3:weightb=1:rect=1:amp=1:rd=4"),
    "one slice": ("yuv420p", "wpp=0:ctu=16:min-cu-size=8"),
    "four slices": ("yuv420p", "ctu=16:slices=4"),  # x265 has them with wavefronts only
    "ten bits": ("yuv420p10le", "tu-inter-depth=4:tu-intra-depth=4:scaling-list=default"),
    "half chroma": ("yuv422p10le", "wpp=0:tskip=1:crf=6:ctu=32"),
    "full chroma": ("yuv444p", "cu-lossless=1:tskip=1:crf=6:signhide=0"),
    "lossless": ("yuv420p", "lossless=1:ctu=32:min-cu-size=16"),
    "gray": ("gray", "aq-mode=2:qg-size=8:vbv-maxrate=400:vbv-bufsize=400:hrd=1"),
}


@pytest.fixture(autouse=True)
def built():
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    assert hevc_slices.parser(), "run `pip install -e .`: the HEVC parser is not compiled"


def coded(tmp_path, name="wavefronts", file="v.mp4", num_frames=9):
    """Path of noise below a moving square, with open groups of pictures and B-frames."""
    pixel_format, params = SETTINGS[name]
    noise = np.random.default_rng(0).integers(0, 40, (num_frames, 136, 200, 3), np.uint8)
    return write_video(
        tmp_path / file,
        moving_square(num_frames, 136, 200) // 2 + noise,
        codec="libx265",
        pixel_format=pixel_format,
        options={"x265-params": f"{params}:keyint=4:log-level=none:pools=1:frame-threads=1"},
    )


def read(path) -> tuple[HevcParser, list[bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return HevcParser(stream.codec_context.extradata or b"", MAX_PIXELS), packets


def units_of(packet: bytes) -> list[bytes]:
    """The units of a packet of MP4, with their sizes."""
    units, at = [], 0
    while at < len(packet):
        end = at + 4 + int.from_bytes(packet[at : at + 4], "big")
        units.append(packet[at:end])
        at = end
    return units


@pytest.mark.parametrize("name", SETTINGS)
def test_sound_files_show_no_sign(name, tmp_path):
    parser, packets = read(coded(tmp_path, name))
    assert parser.is_supported and len(packets) == 9
    assert not any(parser.parse(data) for data in packets)


@pytest.mark.parametrize("file", ["v.ts", "v.hevc", "v.mkv"])
def test_units_with_start_codes_and_other_containers_are_parsed(file, tmp_path):
    parser, packets = read(coded(tmp_path, file=file))
    assert not any(parser.parse(data) for data in packets)
    rng = Random(0)
    for data in packets:
        broken = bytearray(data)
        broken[rng.randrange(len(data) // 2, len(data) - 1)] ^= 0x55
        assert parser.parse(bytes(broken))


def test_sound_real_files_show_no_sign(shared_videos):
    for name in ("mp4parser__foreman-hevc-384.mp4", "torchcodec__bt2020_10bit.mp4"):
        parser, packets = read(shared_videos / "internet" / name)
        assert not any(parser.parse(data) for data in packets)


def test_one_byte_overwritten_between_key_frames_of_a_real_file_is_noticed(shared_videos):
    parser, packets = read(shared_videos / "internet" / "mp4parser__foreman-hevc-384.mp4")
    rng = Random(0)
    num_noticed = num_tried = 0
    for data in packets[1:]:
        for _ in range(8):
            broken = bytearray(data)
            # Behind the header, of which much (where rows begin) changes no picture.
            at = rng.randrange(40, len(data)) if len(data) > 80 else len(data) - 4
            broken[at] ^= rng.randrange(1, 256)
            num_noticed, num_tried = num_noticed + (parser.parse(bytes(broken)) > 0), num_tried + 1
        assert parser.parse(data) == 0
    assert num_noticed > 0.99 * num_tried


def test_slices_must_cover_the_picture_in_order(tmp_path):
    parser, packets = read(coded(tmp_path, "four slices"))
    before, units = packets[:3], units_of(packets[3])
    slices = [i for i, unit in enumerate(units) if unit[4] >> 1 < 32]
    assert len(slices) == 4
    for data in before:
        parser.parse(data)
    assert parser.parse(b"".join(units)) == 0
    for i in slices:
        assert parser.parse(b"".join(units[:i] + units[i + 1 :])), "a slice is missing"
        assert parser.parse(b"".join([*units[: i + 1], *units[i:]])), "a slice comes twice"
    swapped = [*units[: slices[1]], units[slices[2]], units[slices[1]], units[slices[3]]]
    assert parser.parse(b"".join(swapped))
    assert parser.parse(b"".join(units)) == 0


def test_units_must_fill_their_packet_and_name_known_parameter_sets(tmp_path):
    parser, packets = read(coded(tmp_path, "one slice"))
    data = packets[4]
    assert parser.parse(data) == 0
    assert parser.parse(data[:-1]) == 1
    assert parser.parse(data + data[:20]) == 1
    assert HevcParser(b"", MAX_PIXELS).parse(data)
    bare, in_band = read(coded(tmp_path, "one slice", "v.hevc"))
    for data in in_band:
        has_sets = b"\0\0\1\x42" in data
        assert HevcParser(b"", MAX_PIXELS).parse(data) == (0 if has_sets else 3)
    assert not any(bare.parse(data) for data in in_band)


def test_zeros_behind_a_slice_are_no_damage_and_other_bytes_are(tmp_path):
    parser, packets = read(coded(tmp_path, file="v.hevc"))
    assert parser.parse(packets[0] + b"\0\0\0") == 0
    assert parser.parse(packets[0] + b"\0\0\3\0\0\3") == 0
    assert parser.parse(packets[0] + b"\0\7") == 6


def test_other_parameter_sets_within_a_file_are_no_damage(tmp_path):
    """FLV repeats its header of parameter sets where they change."""
    one = coded(tmp_path, "wavefronts", "one.flv").read_bytes()
    other = coded(tmp_path, "one slice", "other.flv").read_bytes()
    path = tmp_path / "both.flv"
    path.write_bytes(one + other[13:])  # without the header of the file
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        look = second_look(info(), stream.codec_context, False, lambda: 0.0)
        packets = list(container.demux(stream))
        assert sum(packet.has_sidedata("new_extradata") for packet in packets) >= 1
        assert not any(look.packet_sign(packet) for packet in packets)


def info():
    return SimpleNamespace(codec="hevc", max_pixels=MAX_PIXELS)


def ue(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def unit(kind: int, bits: str) -> bytes:
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    return b"\0\0\1" + bytes((kind << 1, 1)) + int(bits, 2).to_bytes(len(bits) // 8, "big")


def parameter_sets(precision: str = "0", screen: str = "0", side: int = 64) -> bytes:
    """A file's sets, whose range extension has or lacks a flag, and so has that of screens."""
    sps = "0000" + "000" + "1" + f"{4:08b}" + "1" * 88 + ue(0) + ue(1) + ue(side) + ue(side) + "0"
    sps += 3 * ue(0) + "1" + 3 * ue(0) + ue(0) + ue(1) + ue(0) + ue(2) + ue(0) + ue(0)
    sps += "0000" + ue(0) + "000" + "0"  # no lists, sets of pictures or rates
    sps += "1" + "1" + "00" + screen + "0000" + "0000" + precision + "0000"
    pps = (
        ue(0) + ue(0) + "0000000" + 3 * ue(0) + "000" + 2 * ue(0) + "000000" + "0000" + ue(0) + "00"
    )
    return unit(33, sps) + unit(34, pps)


@pytest.mark.parametrize(("precision", "screen"), [("0", "0"), ("1", "0"), ("0", "1")])
def test_files_with_tools_that_are_not_parsed_are_not_checked(precision, screen):
    context = SimpleNamespace(extradata=parameter_sets(precision, screen))
    is_parsed = precision == screen == "0"
    assert (second_look(info(), context, False, lambda: 0.0) is not None) == is_parsed
    assert shows_little(info(), context) != is_parsed


def test_pictures_beyond_the_limit_are_not_parsed():
    start_of_slice = unit(19, "10" + ue(0) + ue(2) + ue(0) + "1" + "0" * 64)
    for side, sign in ((1024, 6), (4096, 2)):
        data = parameter_sets(side=side) + start_of_slice
        assert HevcParser(b"", 1 << 20).parse(data) == sign


def test_without_the_parser_no_file_is_checked(tmp_path, monkeypatch):
    context = SimpleNamespace(extradata=parameter_sets())
    monkeypatch.setattr(hevc_slices, "parser", lambda: None)
    assert second_look(info(), context, False, lambda: 0.0) is None
    assert shows_little(info(), context)


def test_hostile_packets_touch_no_memory_that_is_not_theirs(tmp_path):
    data = []
    for name in SETTINGS:
        path = coded(tmp_path, name, num_frames=5)
        with av.open(str(path)) as container:
            data.append(container.streams.video[0].codec_context.extradata)
        data += read(path)[1]
    data += [b"", *read(coded(tmp_path, file="v.hevc", num_frames=5))[1]]
    assert_touches_no_memory_of_others("hevc", data, 30, tmp_path)
