"""One input at a time, without Ray: whatever the file is, its seconds end in clips or rejects."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.clip.probe import LimitsConfig
from data_pipelines.preprocess.clip.resize import ResizeConfig
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rejects import RejectRow
from data_pipelines.preprocess.rows import ClipRow, EncodedClip, ItemRows, VideoItem, VideoRow
from data_pipelines.preprocess.sources.opened import content_hash
from lafp.video import VIDEO_DECODERS, EncodeConfig, decode_clip
from lafp.video.decoders.base import DecodedFrame
from tests.synthetic_video import moving_square, number_of, numbered, write_video

ROOT = Path(__file__).parents[3]
CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, min_frames=16),
    filters=FiltersConfig(min_motion=0.0003, min_brightness=0.03),
)
# What a file of the corrupt set ends as. Several end as clips and rejects both.
OUTCOMES = {
    "big_4096x4096_2f.mp4": {"too_short"},
    "bitflips_in_mdat.mp4": {"damaged"},
    "box_size_loop.mp4": {"not_a_video"},
    "gif_65535x65535.gif": {"does_not_decode"},
    "header_32_bytes.mp4": {"not_a_video"},
    "html_error_page.mp4": {"not_a_video"},
    "huge_declared_dims.mp4": {"clip"},
    "lying_duration.mp4": {"clip"},
    "moov_only.mp4": {"no_frames"},
    "mp4_named.avi": {"clip"},
    "mp4_without_extension": {"clip"},
    "name with spaces, ünï & 'quote'.mp4": {"clip"},
    "no_moov.mp4": {"not_a_video"},
    "one_frame.mp4": {"too_short"},
    "random_bytes.mkv": {"not_a_video"},
    "real_ExoPlayer__invalid-bitstream.webm": {"does_not_decode"},
    "real_decord__corrupted.mp4": {"damaged"},
    "real_media__sample_audio_only.mp4": {"no_video_stream"},
    "real_media__sample_missing_stsd.mp4": {"too_short"},
    "real_moviepy__result.webm": {"not_a_video"},
    "real_mp4parse-rust__chunk_out_of_range.mp4": {"not_a_video"},
    "real_mp4parse-rust__invalid_userdata.mp4": {"no_frames"},
    "real_mp4parse-rust__no_timescale.mp4": {"damaged"},
    "real_torchcodec__frame_exceeds_screen.gif": {"too_small"},
    "real_torchcodec__testsrc2_mpeg4.mp4": {"too_short"},
    "static_black_90f.mp4": {"dark"},
    "text_named.mp4": {"not_a_video"},
    "tiny_16x16.mp4": {"too_short"},
    "truncated_55pct_faststart.mp4": {"clip", "damaged", "truncated"},
    "truncated_60pct_moov_last.mp4": {"clip", "damaged", "truncated"},
    "zero_length.mp4": {"not_a_video"},
}


@pytest.fixture(scope="module")
def pyav():
    cls = VIDEO_DECODERS.get("pyav")
    return cls(cls.Config())


def item(path: Path, labels_uri: Path | None = None) -> VideoItem:
    return VideoItem(
        uri=str(path),
        num_bytes=path.stat().st_size,
        split=None,
        labels_uri=str(labels_uri) if labels_uri else None,
    )


def go_through(video_item, cfg, decoder):
    """Videos, clips and rejects of one input, after checking that they add up."""
    rows = list(video_to_clips(video_item, cfg, decoder))
    videos = [row for row in rows if isinstance(row, VideoRow)]
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    rejects = [row for row in rows if isinstance(row, RejectRow)]
    clip_rows = [ClipRow(record=c.record, part="p", video_offset=0) for c in clips]
    check_accounts(ItemRows(videos=tuple(videos), clips=tuple(clip_rows), rejects=tuple(rejects)))
    return videos, clips, rejects


def outcomes(clips, rejects) -> set[str]:
    return {reject.reason for reject in rejects} | ({"clip"} if clips else set())


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_corrupt_file_ends_as_clips_or_rejects(name, pyav, shared_videos):
    path = shared_videos / "corrupt" / name
    videos, clips, rejects = go_through(item(path), CFG, pyav)
    assert len(videos) == 1
    assert outcomes(clips, rejects) == OUTCOMES[name]
    for clip in clips:
        assert decode_clip(clip.video).shape == (clip.record.num_frames, 64, 64, 3)
        assert clip.record.video_id == content_hash(path)


def test_the_corrupt_set_is_complete(shared_videos):
    assert {path.name for path in (shared_videos / "corrupt").iterdir()} == set(OUTCOMES)


@pytest.mark.parametrize("folder", ["internet", "robot"])
def test_sound_real_files_give_all_of_their_seconds(folder, pyav, shared_videos):
    cfg = PreprocessConfig(clip=ClipConfig(fps=5.0, min_frames=2, max_hold_s=5.0))
    for path in sorted((shared_videos / folder).iterdir())[::3]:
        videos, clips, rejects = go_through(item(path), cfg, pyav)
        kept_s = sum(clip.record.end_s - clip.record.start_s for clip in clips)
        # Half a second of rest may be too short for a pair of frames.
        assert kept_s >= videos[0].duration_s - 0.5, (path.name, rejects)
        assert {reject.reason for reject in rejects} <= {"too_short"}, path.name


# VmHWM, not getrusage: the latter takes the parent's peak over through fork and exec.
PEAK_MEMORY = """
import re, sys
from pathlib import Path
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import VideoItem
from lafp.video import VIDEO_DECODERS
cls = VIDEO_DECODERS.get("pyav")
for path in map(Path, sys.argv[1:]):
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    for row in video_to_clips(item, PreprocessConfig(), cls(cls.Config())):
        del row
assert "torch" not in sys.modules, "preprocessing must not load torch"
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


def peak_memory_mib(*paths: Path) -> int:
    """Of a fresh process that goes through the files."""
    command = [sys.executable, "-c", PEAK_MEMORY, *map(str, paths)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_hostile_files_cost_little_memory_and_nothing_loads_torch(shared_videos):
    names = ["gif_65535x65535.gif", "big_4096x4096_2f.mp4", "huge_declared_dims.mp4"]
    assert peak_memory_mib(*(shared_videos / "corrupt" / name for name in names)) < 350


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path):
    fast = {"preset": "ultrafast", "g": "250"}
    short = write_video(tmp_path / "short.mp4", moving_square(300), options=fast)
    long_frames = np.broadcast_to(moving_square(300), (16, 300, 64, 96, 3)).reshape(-1, 64, 96, 3)
    long = write_video(tmp_path / "long.mp4", long_frames, options=fast)
    assert peak_memory_mib(long) - peak_memory_mib(short) < 20


class ExplodingDecoder:
    """Works for a second, then does what no decoder should."""

    def __init__(self, inner) -> None:
        self.inner = inner

    def probe(self, *args):
        return self.inner.probe(*args)

    def frames(self, *args):
        for frame in self.inner.frames(*args):
            if isinstance(frame, DecodedFrame) and frame.time_s > 2.5:
                raise RuntimeError("boom")
            yield frame


def test_an_exception_in_a_decoder_is_a_reject_row_and_earlier_clips_are_kept(tmp_path, pyav):
    path = write_video(tmp_path / "v.mp4", moving_square(60))
    cfg = replace(CFG, clip=ClipConfig(fps=10.0, max_s=2.0))
    _, clips, rejects = go_through(item(path), cfg, ExplodingDecoder(pyav))
    assert [(c.record.start_s, c.record.end_s) for c in clips] == [(0, pytest.approx(2.0))]
    assert [(r.reason, r.detail) for r in rejects] == [("damaged", "RuntimeError: boom")]


def test_a_video_that_takes_too_long_is_cut_off_not_waited_for(tmp_path, pyav):
    path = write_video(tmp_path / "v.mp4", moving_square(60))
    slow = replace(CFG, limits=LimitsConfig(timeout_s=1e-9))
    _, clips, rejects = go_through(item(path), slow, pyav)
    assert outcomes(clips, rejects) == {"timeout"}

    class SleepyDecoder(ExplodingDecoder):
        def frames(self, *args):
            for frame in self.inner.frames(*args):
                time.sleep(0.05)
                yield frame

    limited = replace(CFG, limits=LimitsConfig(timeout_s=1.5), clip=ClipConfig(fps=10.0, max_s=1.6))
    _, clips, rejects = go_through(item(path), limited, SleepyDecoder(pyav))
    assert outcomes(clips, rejects) >= {"clip", "timeout"}
    assert rejects[-1].end_s == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (LimitsConfig(max_bytes=100), "too_many_bytes"),
        (LimitsConfig(max_pixels=1000), "too_large"),
        (LimitsConfig(min_side_px=65), "too_small"),
        (LimitsConfig(max_duration_s=1.0), "too_long"),
    ],
)
def test_each_limit_rejects_with_its_reason(tmp_path, pyav, limits, reason):
    path = write_video(tmp_path / "v.mp4", moving_square(30))
    _, clips, rejects = go_through(item(path), replace(CFG, limits=limits), pyav)
    assert outcomes(clips, rejects) == {reason}


def test_a_file_that_vanished_is_a_reject_row(tmp_path, pyav):
    gone = VideoItem(uri=str(tmp_path / "gone.mp4"), num_bytes=1, split=None)
    _, _, rejects = go_through(gone, CFG, pyav)
    assert [reject.reason for reject in rejects] == ["not_found"]


def test_clip_ids_depend_on_content_and_span_not_on_the_name(tmp_path, pyav):
    path = write_video(tmp_path / "v.mp4", moving_square(60))
    copy = tmp_path / "copy.mkv"
    copy.write_bytes(path.read_bytes())
    _, clips, _ = go_through(item(path), CFG, pyav)
    _, again, _ = go_through(item(copy), CFG, pyav)
    assert [c.record.clip_id for c in clips] == [c.record.clip_id for c in again]
    shorter = replace(CFG, clip=ClipConfig(fps=10.0, max_s=3.0))
    _, pieces, _ = go_through(item(path), shorter, pyav)
    assert len({c.record.clip_id for c in [*clips, *pieces]}) == 3


LABELED = PreprocessConfig(
    name="labeled",
    labels=LabelsConfig(),
    clip=ClipConfig(fps=None, max_s=2.0, min_frames=4),
    resize=ResizeConfig(width_px=64, height_px=32),
    encode=EncodeConfig(crf=4),
)


def test_labels_follow_their_frames_through_cuts_and_damage(tmp_path, pyav):
    options = {"crf": "12", "g": "10", "bf": "0"}
    path = write_video(tmp_path / "e.mp4", numbered(100), fps=10, options=options)
    action = np.stack([np.arange(100), -np.arange(100)], axis=1).astype(np.float32)
    np.savez(tmp_path / "e.npz", action=action)
    data = bytearray(path.read_bytes())
    middle = data.index(b"moov") // 2  # in the media, which the index follows
    data[middle : middle + 60] = np.random.default_rng(0).bytes(60)
    path.write_bytes(data)
    _, clips, rejects = go_through(item(path, tmp_path / "e.npz"), LABELED, pyav)
    assert outcomes(clips, rejects) == {"clip", "damaged"}
    assert len(clips) >= 4
    for clip in clips:
        numbers = [number_of(frame) for frame in decode_clip(clip.video)]
        np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)
        np.testing.assert_array_equal(clip.labels.true_action[:, 1], -np.array(numbers))
        assert clip.record.has_labels


def test_labels_follow_their_frames_to_another_rate(tmp_path, pyav):
    path = write_video(tmp_path / "e.mp4", numbered(50), fps=10)
    np.savez(tmp_path / "e.npz", action=np.arange(50)[:, None].astype(np.float32))
    for fps in (5.0, 7.5, 15.0):
        resampled = replace(LABELED, clip=ClipConfig(fps=fps, max_s=1.7, min_frames=4))
        _, clips, rejects = go_through(item(path, tmp_path / "e.npz"), resampled, pyav)
        assert len(clips) >= 3 and not rejects
        for clip in clips:
            numbers = [number_of(frame) for frame in decode_clip(clip.video)]
            np.testing.assert_array_equal(clip.labels.true_action[:, 0], numbers)


def test_labels_of_another_length_are_rejected_not_guessed(tmp_path, pyav):
    path = write_video(tmp_path / "e.mp4", numbered(50), fps=10)
    np.savez(tmp_path / "short.npz", action=np.zeros((49, 2)))
    _, clips, rejects = go_through(item(path, tmp_path / "short.npz"), LABELED, pyav)
    assert outcomes(clips, rejects) == {"labels_mismatch"}
    _, clips, rejects = go_through(item(path, tmp_path / "missing.npz"), LABELED, pyav)
    assert outcomes(clips, rejects) == {"no_labels"}


def test_stacked_real_episodes_keep_frames_and_actions(pyav, shared_videos):
    path = shared_videos / "labeled/bridge_v1_rlds/episodes.npz"
    cfg = replace(
        LABELED,
        resize=ResizeConfig(width_px=64, height_px=64),
        encode=EncodeConfig(crf=0, pixel_format="yuv444p"),
    )
    videos, clips, rejects = go_through(item(path, path), cfg, pyav)
    assert (len(videos), len(clips), rejects) == (15, 15, [])
    with np.load(path) as arrays:
        for i, clip in enumerate(clips):
            np.testing.assert_array_equal(clip.labels.true_action, arrays["action"][i])
            np.testing.assert_array_equal(clip.labels.state, arrays["state"][i])
            error = decode_clip(clip.video).astype(int) - arrays["image_0"][i]
            assert np.abs(error).max() <= 4
            assert clip.record.fps == 5.0


def test_decord_makes_the_same_clips_of_a_sound_file(tmp_path, pyav):
    pytest.importorskip("decord")
    cls = VIDEO_DECODERS.get("decord")
    path = write_video(tmp_path / "v.mp4", moving_square(60), fps=10)
    _, ours, _ = go_through(item(path), CFG, pyav)
    _, theirs, _ = go_through(item(path), CFG, cls(cls.Config()))
    assert [clip.record.clip_id for clip in ours] == [clip.record.clip_id for clip in theirs]
    assert ours
