"""Files whose clocks are odd: every frame comes once, at its time, and no second is made up."""

import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import EncodedClip, VideoItem, VideoRow
from lafp.video import decode_clip
from lafp.video.decoders.base import VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.synthetic_video import number_of, numbered, write_video

DECODER = PyAVDecoder(PyAVConfig())
FRAMES = numbered(200)
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".flv", ".3gp", ".gif", ".mpg", ".mpeg")
REORDERED = {
    "libx264": {"g": "20", "bf": "2"},
    "libx265": {"x265-params": "keyint=20:bframes=3:log-level=error"},
    "mpeg2video": {"g": "12", "bf": "2", "b": "2000000"},
    "mpeg1video": {"g": "12", "bf": "2", "b": "2000000"},
    "mpeg4": {"g": "20", "bf": "2", "b": "2000000"},
}


def written(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    container: str | None = None,
    start_s: float = 0.0,
    fps: int = 30,
) -> Path:
    """A video with B-frames, whose clock may start late."""
    with av.open(str(path), "w", format=container) as file:
        stream: Any = file.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", REORDERED[codec]
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i + round(start_s * fps), Fraction(1, fps)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def gone_through(path: Path, fps: float | None = None) -> tuple[float, list[Any]]:
    """Seconds of the video; per clip its seconds, rate and frame numbers, and the rejects."""
    cfg = PreprocessConfig(
        clip=ClipConfig(fps=fps, max_s=60.0, min_frames=4),
        resize=ResizeConfig(width_px=64, height_px=32),
    )
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    video, *rows = video_to_clips(item, cfg, DECODER)
    assert isinstance(video, VideoRow)
    found: list[Any] = []
    for row in rows:
        if isinstance(row, RejectRow):
            found.append(row)
            continue
        assert isinstance(row, EncodedClip)
        record = row.record
        numbers = [number_of(frame) for frame in decode_clip(row.video)]
        span = (pytest.approx(record.start_s, abs=0.01), pytest.approx(record.end_s, abs=0.01))
        found.append((*span, pytest.approx(record.fps, rel=1e-3), numbers))
    return video.duration_s, found


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("v.h264", "libx264", "h264"),
        ("v.hevc", "libx265", "hevc"),
        ("v.m2v", "mpeg2video", "mpeg2video"),
        ("v.m1v", "mpeg1video", "mpeg1video"),
        ("v.m4v", "mpeg4", "m4v"),
        ("h264.avi", "libx264", None),
        ("mpeg4.avi", "mpeg4", None),
        ("h264.asf", "libx264", None),
        ("h264.mpg", "libx264", None),  # stamps one packet in dozens
        ("mpeg2.mpg", "mpeg2video", None),
        ("hevc.ts", "libx265", None),
    ],
)
def test_frames_without_time_stamps_of_their_own_come_in_order_at_their_rate(
    tmp_path, name, codec, container
):
    path = written(tmp_path / name, FRAMES[:90], codec, container)
    seconds, clips = gone_through(path)
    assert seconds == pytest.approx(3.0, abs=0.01)
    assert clips == [(0.0, 3.0, 30.0, list(range(90)))]


def test_a_raw_stream_has_the_rate_that_it_states(tmp_path):
    path = written(tmp_path / "v.h264", FRAMES[:48], container="h264", fps=24)
    assert gone_through(path) == (pytest.approx(2.0), [(0.0, 2.0, 24.0, list(range(48)))])


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv", "avi"])
def test_a_clock_that_starts_late_is_no_promise_of_more(tmp_path, suffix):
    path = written(tmp_path / f"v.{suffix}", FRAMES[:60], start_s=5.0)
    seconds, clips = gone_through(path)
    assert seconds == pytest.approx(2.0, abs=0.01)
    assert clips == [(0.0, 2.0, 30.0, list(range(60)))]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("ts", "libx264"), ("ts", "libx265"), ("mpg", "mpeg2video"), ("mkv", "libx264")],
)
@pytest.mark.parametrize("start_s", [0.0, 600.0])
def test_two_recordings_in_one_file_are_both_there_and_no_clip_goes_across(
    tmp_path, suffix, codec, start_s
):
    if suffix == "mkv" and start_s:
        pytest.skip("its clock does not jump: a frame that stays for long is a gap")
    first = written(tmp_path / f"a.{suffix}", FRAMES[:60], codec)
    second = written(tmp_path / f"b.{suffix}", FRAMES[100:145], codec, start_s=start_s)
    parts = [first, second] if suffix == "mkv" else [first, second, first]
    seconds, clips = gone_through(joined(tmp_path / f"v.{suffix}", *parts))
    expected = [
        (0.0, 2.0, 30.0, list(range(60))),
        (2.0, 3.5, 30.0, list(range(100, 145))),
        (3.5, 5.5, 30.0, list(range(60))),
    ]
    assert seconds == pytest.approx(expected[len(parts) - 1][1], abs=0.01)
    assert clips == expected[: len(parts)]


@pytest.mark.parametrize(("suffix", "num_read"), [("flv", 1), ("mkv", 2)])
def test_what_ffmpeg_does_not_read_of_several_files_in_one_is_said(tmp_path, suffix, num_read):
    noisy = np.random.default_rng(0).integers(0, 60, (30, 32, 64, 3)).astype(np.uint8)
    part = written(tmp_path / f"a.{suffix}", FRAMES[:30] // 2 + noisy)
    seconds, found = gone_through(joined(tmp_path / f"v.{suffix}", part, part, part))
    assert seconds == pytest.approx(num_read, abs=0.01)
    (reject,) = (row for row in found if isinstance(row, RejectRow))
    assert (reject.start_s, reject.end_s) == (seconds, seconds)
    assert "several files in one" in reject.detail
    assert not [row for row in gone_through(part)[1] if isinstance(row, RejectRow)]


@pytest.mark.parametrize(
    ("suffix", "sound"), [("mkv", "pcm_s16le"), ("webm", "libopus"), ("flv", "pcm_s16le")]
)
def test_sound_that_is_longer_than_the_video_is_no_second_file(tmp_path, suffix, sound):
    path = tmp_path / f"v.{suffix}"
    noise = np.random.default_rng(0).integers(-(2**14), 2**14, (1, 44100 * 8)).astype(np.int16)
    rate = 48000 if sound == "libopus" else 44100
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx" if suffix == "webm" else "libx264", rate=30)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        audio = container.add_stream(sound, rate=rate, layout="mono")
        for picture in FRAMES[:30]:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        for start in range(0, noise.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(noise[:, start : start + 1024], "s16", "mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    seconds, found = gone_through(path)
    assert seconds == pytest.approx(1.0, abs=0.01)
    assert [row for row in found if isinstance(row, RejectRow)] == []


def test_a_recording_shorter_than_a_second_is_not_lost_behind_another(tmp_path):
    parts = [written(tmp_path / f"{i}.ts", FRAMES[50 * i :][:12]) for i in range(3)]
    seconds, clips = gone_through(joined(tmp_path / "v.ts", *parts))
    assert seconds == pytest.approx(1.2, abs=0.01)
    assert [clip[3] for clip in clips] == [list(range(50 * i, 50 * i + 12)) for i in range(3)]


@pytest.mark.parametrize(
    ("suffix", "codec", "container"),
    [("ts", "libx264", None), ("mpg", "mpeg2video", None), ("hevc", "libx265", "hevc")],
)
def test_sound_parts_of_every_size_are_kept(tmp_path, suffix, codec, container):
    larger = FRAMES[100:130].repeat(2, axis=1).repeat(2, axis=2)
    first = written(tmp_path / f"a.{suffix}", FRAMES[:30], codec, container)
    second = written(tmp_path / f"b.{suffix}", larger, codec, container)
    seconds, clips = gone_through(joined(tmp_path / f"v.{suffix}", first, second, first))
    assert seconds == pytest.approx(3.0, abs=0.01)
    assert [clip[3] for clip in clips] == [
        list(range(30)),
        list(range(100, 130)),
        list(range(30)),
    ]


def sizes_on_one_clock(path: Path, codec: str, parts: Sequence[np.ndarray]) -> Path:
    """As browsers record: the clock goes on where the size changes."""
    options = {"deadline": "realtime", "lag-in-frames": "0", "crf": "10", "b": "2000000"}
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=30)
        stream.height, stream.width = parts[0].shape[1:3]
        stream.pix_fmt = "yuv420p"
        place = 0
        for frames in parts:
            encoder: Any = av.CodecContext.create(codec, "w")
            encoder.height, encoder.width = frames.shape[1:3]
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 30)
            encoder.options = options
            for pixels in frames:
                rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame = rgb.reformat(format="yuv420p")
                frame.pts, place = place, place + 1
                _mux(file, stream, encoder.encode(frame))
            _mux(file, stream, encoder.encode())
    return path


def _mux(file: Any, stream: Any, packets: list[Any]) -> None:
    for packet in packets:
        packet.stream = stream
        file.mux(packet)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_a_size_that_changes_inside_a_stream_costs_nothing(tmp_path, codec):
    larger = FRAMES[100:130].repeat(2, axis=1).repeat(2, axis=2)
    path = sizes_on_one_clock(tmp_path / "v.webm", codec, [FRAMES[:30], larger, FRAMES[30:60]])
    seconds, clips = gone_through(path)
    assert seconds == pytest.approx(3.0, abs=0.01)
    assert [clip[3] for clip in clips] == [
        list(range(30)),
        list(range(100, 130)),
        list(range(30, 60)),
    ]


def test_a_frame_of_another_shape_is_shown_whole_between_bars(tmp_path):
    white = np.full((30, 64, 32, 3), 255, np.uint8)
    path = sizes_on_one_clock(tmp_path / "v.webm", "libvpx", [FRAMES[:30], white])
    deadline = time.monotonic() + 60
    info = DECODER.probe(str(path), 2**24, deadline)
    *_, last = DECODER.frames(str(path), info, 64, 32, deadline)
    pixels = last.pixels()
    assert pixels.shape == (32, 64, 3)
    assert pixels[:, 25:39].min() > 240 and pixels[:, :23].max() < 10 > pixels[:, 41:].max()


def test_a_file_cannot_make_later_frames_larger_than_is_allowed(tmp_path):
    larger = FRAMES[100:130].repeat(20, axis=1).repeat(20, axis=2)
    path = sizes_on_one_clock(tmp_path / "v.webm", "libvpx", [FRAMES[:30], larger[:4]])
    deadline = time.monotonic() + 60
    info = DECODER.probe(str(path), 200_000, deadline)
    *frames, last = DECODER.frames(str(path), info, 64, 32, deadline)
    assert len(frames) == 30 and (last.start_s, last.end_s) == pytest.approx(
        (1.0, 34 / 30), abs=0.01
    )


def test_a_dropped_frame_in_a_clock_of_milliseconds_is_one_frame_that_is_held(tmp_path):
    times_s = np.delete(np.arange(150) / 30, 140)
    path = write_video(tmp_path / "v.mkv", FRAMES[:149], 30, times_s=times_s.tolist())
    seconds, clips = gone_through(path)
    assert seconds == pytest.approx(5.0, abs=0.01)
    numbers = [*range(140), 139, *range(140, 149)]
    assert clips == [(0.0, pytest.approx(5.0, abs=0.01), 30.0, numbers)]


EDITS: dict[str, tuple[list[tuple[int, int]], list[int]]] = {
    # (from frame, how many frames); what is shown
    "begins inside a group": ([(17, 60)], list(range(17, 77))),
    "two segments": ([(0, 30), (75, 30)], [*range(30), *range(75, 105)]),
    "one segment twice": ([(20, 20), (20, 20)], [*range(20, 40), *range(20, 40)]),
    "in another order": ([(60, 30), (0, 30)], [*range(60, 90), *range(30)]),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_list_shows_what_it_says_and_nothing_is_missing(tmp_path, name):
    segments, shown = EDITS[name]
    path = write_video(
        tmp_path / "v.mp4", FRAMES[:120], 30, options={"crf": "12", "g": "20", "bf": "0"}
    )
    path.write_bytes(with_edit_list(path.read_bytes(), [(a * 512, n * 512) for a, n in segments]))
    seconds, clips = gone_through(path)
    assert seconds == pytest.approx(len(shown) / 30, abs=0.01)
    assert [number for clip in clips for number in clip[3]] == shown
    assert not [clip for clip in clips if isinstance(clip, RejectRow)]


def with_edit_list(data: bytes, segments: list[tuple[int, int]]) -> bytes:
    """Puts other edits into an mp4 whose index is its last box.

    Args:
        data: As FFmpeg writes it, with one track and one edit.
        segments: Start in the media and length, in its units.
    """
    movie_scale = int.from_bytes(data[(at := data.index(b"mvhd")) + 16 : at + 20], "big")
    media_scale = int.from_bytes(data[(at := data.index(b"mdhd")) + 16 : at + 20], "big")
    edits = b"".join(
        (length * movie_scale // media_scale).to_bytes(4, "big")
        + start.to_bytes(4, "big")
        + (1 << 16).to_bytes(4, "big")
        for start, length in segments
    )
    elst = _box(b"elst", bytes(4) + len(segments).to_bytes(4, "big") + edits)
    new, old_at = _box(b"edts", elst), data.index(b"edts") - 4
    old_size = int.from_bytes(data[old_at : old_at + 4], "big")
    grown = len(new) - old_size
    parts = bytearray(data)
    for name in (b"moov", b"trak"):
        at = data.index(name) - 4
        size = int.from_bytes(data[at : at + 4], "big") + grown
        parts[at : at + 4] = size.to_bytes(4, "big")
    assert data.index(b"moov") > data.index(b"mdat"), "offsets of the media stay"
    parts[old_at : old_at + old_size] = new
    return bytes(parts)


def _box(name: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + name + content


def test_empty_packets_of_avi_hold_the_frame_before_them(tmp_path):
    """A frame that the recorder dropped: an AVI has an empty chunk there."""
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.options = {"g": "20", "b": "2000000"}
        for i, pixels in enumerate(FRAMES[:60]):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts = i + 3 * (i >= 40)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    seconds, clips = gone_through(path)
    assert seconds == pytest.approx(2.1, abs=0.01)
    assert clips == [(0.0, 2.1, 30.0, [*range(40), 39, 39, 39, *range(40, 60)])]


def test_real_videos_are_as_long_as_their_packets(shared_videos):
    """Counted here once more, without anything that the decoder has for it."""
    paths = sorted(path for path in shared_videos.glob("*/*") if path.suffix in SUFFIXES)
    num_checked = 0
    for path in paths:
        try:
            with av.open(str(path)) as file:
                stream: Any = file.streams.best("video")
                packets = [
                    (packet.pts, packet.pts + (packet.duration or 0))
                    for packet in file.demux(stream)
                    if packet.pts is not None and packet.size and not packet.is_discard
                ]
                seconds = (max(end for _, end in packets) - min(packets)[0]) * stream.time_base
            info = DECODER.probe(str(path), 2**24, time.monotonic() + 60)
        except (av.FFmpegError, VideoError, AttributeError, ValueError):
            continue  # no video, which other tests are for
        num_checked += 1
        assert info.duration_s == pytest.approx(float(seconds), abs=1.5 / info.fps), path.name
        num_pictures = len({start for start, _ in packets})
        assert abs(len(info.times_s) - num_pictures) <= 1, path.name
    assert num_checked > 80
