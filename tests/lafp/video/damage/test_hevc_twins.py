"""HEVC without wavefronts: sound files decode alike in two ways, and damaged key frames do not."""

from random import Random

import av
import numpy as np
import pytest

from lafp.video.damage.hevc_twins import HevcSliceEnds
from lafp.video.damage.signs import checking_context, decode, listen_to_ffmpeg
from tests.synthetic_video import moving_square, write_video

SETTINGS = {
    "one slice": ("yuv420p", "wpp=0"),
    "four slices": ("yuv420p", "ctu=16:slices=4"),  # x265 has them with wavefronts only
    "10 bits": ("yuv420p10le", "wpp=0"),
    "lossless": ("yuv420p", "wpp=0:lossless=1"),
    "no loop filters": ("yuv420p", "wpp=0:sao=0:deblock=0"),
}


def coded(tmp_path, name, num_frames=12, file="v.mp4"):
    """Path of noise below a moving square, with open groups of pictures and B-frames."""
    pixel_format, params = SETTINGS[name]
    noise = np.random.default_rng(0).integers(0, 40, (num_frames, 192, 256, 3), np.uint8)
    return write_video(
        tmp_path / file,
        moving_square(num_frames, 192, 256) // 2 + noise,
        codec="libx265",
        pixel_format=pixel_format,
        options={"x265-params": f"{params}:keyint=4:log-level=none:pools=1:frame-threads=1"},
    )


def signs(path, change=lambda number, data: data) -> tuple[list[str], list[str], list[np.ndarray]]:
    """What FFmpeg says of each packet, what the twin says of packets and frames; the pictures."""
    listen_to_ffmpeg()
    said, found, pictures = [], [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = checking_context(stream)
        context.thread_count = 1
        twin = HevcSliceEnds(context)
        for number, packet in enumerate(container.demux(stream)):
            changed = av.Packet(change(number, bytes(packet))) if packet.size else packet
            changed.opaque, changed.is_keyframe = object(), packet.is_keyframe
            changed.pts, changed.dts = packet.pts, packet.dts
            for data in packet.iter_sidedata():
                changed.set_sidedata(data)
            hidden = twin.packet_sign(changed)
            frames, sign = decode(context, changed)
            said.append(sign)
            found += [hidden, *map(twin.frame_sign, frames)]
            pictures += [frame.to_ndarray(format="gray").astype(int) for frame in frames]
    return said, found, pictures


@pytest.mark.parametrize("name", SETTINGS)
def test_sound_files_decode_alike_in_both_ways(name, tmp_path):
    said, found, pictures = signs(coded(tmp_path, name))
    assert len(pictures) == 12
    assert not any(said) and not any(found)


def test_other_parameter_sets_within_a_file_are_no_damage(tmp_path):
    """FLV repeats its header of parameter sets where they change."""
    one = coded(tmp_path, "one slice", file="one.flv").read_bytes()
    other = coded(tmp_path, "no loop filters", file="other.flv").read_bytes()
    path = tmp_path / "both.flv"
    path.write_bytes(one + other[13:])  # without the header of the file
    with av.open(str(path)) as container:
        packets = list(container.demux(video=0))
        assert sum(packet.has_sidedata("new_extradata") for packet in packets) >= 1
    said, found, pictures = signs(path)
    assert len(pictures) == 24
    assert not any(said) and not any(found)


@pytest.mark.parametrize("name", ["one slice", "10 bits"])
def test_damage_of_a_key_frame_that_ffmpeg_does_not_notice_is_noticed(name, tmp_path):
    path, rng = coded(tmp_path, name, 1), Random(0)
    sound = signs(path)[2][0]
    num_hidden = num_found = 0
    for _ in range(40):

        def overwrite(_, data):
            at = rng.randrange(len(data) // 10, len(data))
            return data[:at] + bytes((data[at] ^ rng.randrange(1, 256),)) + data[at + 1 :]

        said, found, pictures = signs(path, overwrite)
        if pictures and not any(said) and np.abs(pictures[0] - sound).mean() > 0.5:
            num_hidden += 1
            num_found += any(found)
    assert num_hidden >= 10
    assert num_found >= 0.85 * num_hidden


def test_packets_that_cannot_be_split_raise_nothing(tmp_path):
    path, rng = coded(tmp_path, "one slice", 4), Random(0)
    for _ in range(30):
        signs(path, lambda _, data: data[: rng.randrange(len(data))] + rng.randbytes(3))
        signs(path, lambda _, data: rng.randbytes(rng.randrange(1, 40)))
