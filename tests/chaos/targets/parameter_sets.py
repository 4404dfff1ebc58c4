"""H.264 and HEVC parameter sets, packets of both, and of VP9."""

from pathlib import Path
from random import Random
from types import SimpleNamespace

import av

from lafp.video.damage.h264_sps import with_higher_pictures
from lafp.video.damage.hevc_slices import HevcParser
from lafp.video.damage.second_decoders import SliceEnds
from lafp.video.damage.vp9_tiles import Vp9Tiles, parser, usual_signs
from tests.chaos.fuzz import Target
from tests.chaos.mutations import mutated_bytes
from tests.synthetic_video import moving_square, write_video

_CODES = (0, 1, 2, 3, 7, 8, 12, 63, 64, 255, 256, 65535, 2**31, 2**32 - 2, 2**64, 2**4000)
_PROFILES = (66, 77, 100, 110, 244, 44, 255)


def _ue(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _bits(rng: Random, num_codes: int) -> str:
    """Bits and Exponential Golomb codes, many of them at the edge of what they may hold."""
    parts = []
    for _ in range(num_codes):
        odd = rng.choice(_CODES) if rng.random() < 0.2 else rng.choice((0, 0, 1, 2))
        parts.append(_ue(odd) if rng.random() < 0.7 else str(rng.randrange(2)))
    return "".join(parts)


def _unit(head: bytes, bits: str) -> bytes:
    bits += "1"
    bits += "0" * (-len(bits) % 8)
    return head + int(bits, 2).to_bytes(len(bits) // 8, "big")


def _made_sps(rng: Random) -> bytes:
    profile = rng.choice(_PROFILES)
    unit = _unit(bytes((0x67, profile, 0, 30)), _bits(rng, rng.choice((5, 20, 200))))
    if rng.random() < 0.05:
        unit += bytes(rng.choice((1000, 65_000)))
    return unit


def _avcc(units: list[bytes]) -> bytes:
    made = bytes((1, 100, 0, 30, 0xFF, 0xE0 | len(units) & 31))
    for unit in units:
        made += (len(unit) % 65536).to_bytes(2, "big") + unit
    return made + b"\x01\x00\x04\x68\xeb\xe3\xcb"


def _extradata(folder: Path, codec: str) -> bytes:
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = write_video(
        folder / f"{codec}.mp4", moving_square(4, 64, 64), codec=codec, options=options
    )
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.extradata or b""


def sps(folder: Path) -> Target:
    real = _extradata(folder, "libx264")

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            return mutated_bytes(rng, real)
        made = _avcc([_made_sps(rng) for _ in range(rng.choice((1, 1, 2, 31)))])
        return mutated_bytes(rng, made) if rng.random() < 0.3 else made

    def parse(avcc: bytes) -> None:
        with_higher_pictures(avcc, 1500)

    return Target(make, parse, (ValueError, IndexError))


def hevc(folder: Path) -> Target:
    """Parameter sets and packets of HEVC, through the parser of slices."""
    real = _extradata(folder, "libx265")
    with av.open(str(folder / "libx265.mp4")) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]

    def made_sets(rng: Random) -> bytes:
        units = [
            _unit(bytes((kind << 1, 1)) + bytes(rng.choice((0, 15))), _bits(rng, 60))
            for kind in (33, 34)
        ]
        return b"".join(b"\0\0\1" + unit for unit in units)

    def make(rng: Random) -> tuple[bytes, list[bytes]]:
        extra = mutated_bytes(rng, real) if rng.random() < 0.3 else real
        extra = made_sets(rng) if rng.random() < 0.2 else extra
        return extra, [mutated_bytes(rng, p, packets) if rng.random() < 0.7 else p for p in packets]

    def parse(made: tuple[bytes, list[bytes]]) -> None:
        parser = HevcParser(made[0], max_pixels=1 << 20)
        for data in made[1]:
            parser.parse(data)

    return Target(make, parse, ())


def slices(folder: Path) -> Target:
    """Packets of H.264, through the decoder that looks where slices end."""
    real = _extradata(folder, "libx264")
    with av.open(str(folder / "libx264.mp4")) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]

    def make(rng: Random) -> tuple[bytes, list[bytes]]:
        extra = mutated_bytes(rng, real) if rng.random() < 0.3 else real
        return extra, [mutated_bytes(rng, p, packets) if rng.random() < 0.7 else p for p in packets]

    def parse(made: tuple[bytes, list[bytes]]) -> None:
        look = SliceEnds(SimpleNamespace(extradata=made[0]))
        for data in made[1]:
            look.packet_sign(av.Packet(data))

    return Target(make, parse, ())


def tiles(folder: Path) -> Target:
    """Packets of VP9, of two tiles, through the parser that looks where tiles end."""
    path = folder / "vp9.webm"
    write_video(path, moving_square(4, 64, 640), codec="libvpx-vp9", options={"tile-columns": "1"})
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]

    def make(rng: Random) -> list[bytes]:
        heads = (mutated_bytes(rng, p[:40], most=2) for p in packets)
        return [
            head + (mutated_bytes(rng, p[40:], packets) if rng.random() < 0.3 else p[40:])
            for p, head in zip(packets, heads, strict=True)
        ]

    def parse(made: list[bytes]) -> None:
        look = Vp9Tiles(1 << 20, usual_signs(made, 1 << 20))
        for data in made:
            look.packet_sign(av.Packet(data))

    assert parser(), "run `pip install -e .`: the VP9 parser is not compiled"
    return Target(make, parse, ())


TARGETS = {"h264 sps": sps, "hevc": hevc, "h264 packets": slices, "vp9 packets": tiles}
