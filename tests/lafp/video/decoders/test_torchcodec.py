"""torchcodec against PyAV on real videos, and what it says when something is missing."""

import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rows import VideoItem
from data_pipelines.preprocess.shards import write_part
from lafp.config import ConfigError
from lafp.video.decoders.base import DamagedSpan, DecodedFrame, VideoError
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from lafp.video.decoders.torchcodec import TorchCodecConfig, TorchCodecDecoder
from tests.synthetic_video import moving_square, write_video

ROOT = Path(__file__).parents[4]
MAX_PIXELS = 4096 * 4096
PYAV = PyAVDecoder(PyAVConfig())
# Containers, codecs, B-frames, rotation, odd sizes, and HD without a named matrix.
REAL = (
    "internet/decord__flipping_a_pancake.mkv",
    "internet/learning-area__videos_elf.webm",
    "internet/torchcodec__testsrc2_odd_height_and_width_vp9.mp4",
    "internet/torchcodec__nasa_13013_rotated.mp4",
    "internet/mp4parser__foreman-hevc-384.mp4",
    "internet/media__avi_sample.avi",
    "robot/gated-memory-policy__no_hist_dp_1.mp4",
    "labeled/g1_pick_bottle/videos/chunk-000/observation.images.cam_high/episode_000029.mp4",
)


@pytest.fixture(scope="module")
def torchcodec():
    try:
        return TorchCodecDecoder(TorchCodecConfig())
    except ConfigError as error:
        pytest.skip(str(error))


def soon() -> float:
    return time.monotonic() + 120


def events(decoder, path, side_px=128, num=10_000, start_s=0.0):
    info = decoder.probe(str(path), MAX_PIXELS, soon())
    scale = min(1.0, side_px / min(info.width_px, info.height_px))
    size = round(info.width_px * scale), round(info.height_px * scale)
    return list(islice(decoder.frames(str(path), info, *size, soon(), start_s), num))


@pytest.mark.parametrize("name", REAL)
def test_real_videos_have_the_times_and_pixels_of_pyav(torchcodec, shared_videos, name):
    """A frame whose own stamp is not that of PyAV's frame would be a damaged span."""
    expected = events(PYAV, shared_videos / name, num=40)
    found = events(torchcodec, shared_videos / name, num=40)
    assert [f.time_s for f in found] == pytest.approx([f.time_s for f in expected], abs=1e-9)
    for ours, theirs in zip(found, expected, strict=True):
        difference = ours.pixels().astype(int) - theirs.pixels()
        # It rounds colours down and repeats those of neighbours, where PyAV interpolates.
        assert np.abs(difference).mean() < 2.2
        assert np.abs(difference.mean(axis=(0, 1))).max() < 2.2


def test_hd_without_a_named_matrix_has_the_colours_of_hd(torchcodec, tmp_path):
    source = np.zeros((2, 720, 960, 3), np.uint8)
    source[:, :, :480], source[:, :, 480:] = (30, 160, 60), (180, 60, 40)
    path = write_video(tmp_path / "v.mp4", source)
    assert PYAV.probe(str(path), MAX_PIXELS, soon()).conversions.with_bt709
    expected, found = (events(d, path)[0].pixels().astype(int) for d in (PYAV, torchcodec))
    assert np.abs(found - expected)[:, 10:-10].mean() < 2.2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("internet/media__mp4_hdr10-av1.mp4", "does not convert HDR"),
        ("internet/torchcodec__sine_stereo_mp2.mpg", "believes the time stamps"),
        ("robot/tdmpc2__assets_4.gif", "transparent"),
    ],
)
def test_what_it_would_show_wrongly_is_a_reject_that_names_pyav(
    torchcodec, shared_videos, name, words
):
    with pytest.raises(VideoError, match=words) as error:
        torchcodec.probe(str(shared_videos / name), MAX_PIXELS, soon())
    assert error.value.reason == "beyond_decoder" and "name=pyav" in error.value.detail


def test_a_late_start_gives_the_same_frames(torchcodec, tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(80), options={"g": "12"})
    whole = {event.time_s: event.pixels() for event in events(torchcodec, path)}
    late = events(torchcodec, path, start_s=5.0)
    assert 3.5 < late[0].time_s <= 4.0 and len(whole) - len(late) == 40
    for event in late:
        np.testing.assert_array_equal(event.pixels(), whole[event.time_s])


def test_pixels_that_are_not_wanted_are_not_converted_but_can_be_had(torchcodec, tmp_path):
    path = str(write_video(tmp_path / "v.mp4", moving_square(20)))
    info = torchcodec.probe(path, MAX_PIXELS, soon())
    asked = []

    def is_wanted(time_s):
        asked.append(time_s)
        return len(asked) % 4 == 0

    some = list(torchcodec.frames(path, info, 96, 64, soon(), 0.0, is_wanted))
    assert asked == info.times_s.tolist() and len(some) == 20
    for event, full in zip(some, events(torchcodec, path), strict=True):
        np.testing.assert_array_equal(event.pixels(), full.pixels())


def test_a_file_that_breaks_off_is_cut_where_it_breaks(torchcodec, shared_videos):
    path = shared_videos / "corrupt/truncated_55pct_faststart.mp4"
    *frames, last = events(torchcodec, path)
    assert all(isinstance(frame, DecodedFrame) for frame in frames) and len(frames) > 50
    assert isinstance(last, DamagedSpan) and last.start_s == pytest.approx(
        frames[-1].time_s + 1 / 30
    )


def test_damaged_files_lose_no_second_and_no_video_has_other_reasons(
    torchcodec, shared_videos, tmp_path
):
    cfg = PreprocessConfig()
    for path in sorted((shared_videos / "corrupt").iterdir()):
        if path.stat().st_size > 200_000 or path.suffix == ".gif":
            continue
        item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
        reasons = []
        for decoder in (PYAV, torchcodec):
            (rows,) = write_part([video_to_clips(item, cfg, decoder)], str(tmp_path), "part.tar")
            check_accounts(rows)
            no_video = [r for r in rows.rejects if not rows.videos or r.start_s == r.end_s]
            reasons.append({reject.reason for reject in no_video} - {"damaged"})
        assert reasons[0] == reasons[1], path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_no_silent_cpu(torchcodec):
    with pytest.raises(ConfigError, match=r"video_decoder\.device: cuda, but torch .* sees no GPU"):
        TorchCodecDecoder(TorchCodecConfig(device="cuda"))


def test_without_ffmpeg_it_says_in_one_line_what_to_install(tmp_path):
    """Its libraries look for versions of libavutil that no machine has."""
    spec = find_spec("torchcodec")
    if spec is None:
        pytest.skip("torchcodec is not installed")
    copy = tmp_path / "torchcodec"
    shutil.copytree(Path(spec.origin).parent, copy)
    for library in copy.glob("*.so"):
        library.write_bytes(library.read_bytes().replace(b"libavutil.so.", b"libavutil.so_"))
    code = (
        "from lafp.config import ConfigError\n"
        "from lafp.video.decoders.torchcodec import TorchCodecConfig, TorchCodecDecoder\n"
        "try:\n    TorchCodecDecoder(TorchCodecConfig())\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    path = f"import sys\nsys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
    done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True)
    (line,) = done.stdout.splitlines()
    assert "does not find libavutil" in line and "apt-get install ffmpeg" in line
    assert "video_decoder.name=pyav" in line
