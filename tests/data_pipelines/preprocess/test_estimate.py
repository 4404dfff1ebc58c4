"""What --dry-run says, against what comes of it."""

import re
from dataclasses import replace

import pytest

from data_pipelines.preprocess import estimate as estimate_module
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.estimate import estimate
from data_pipelines.preprocess.job import list_inputs
from data_pipelines.preprocess.rows import EncodedClip, VideoRow
from data_pipelines.preprocess.shards import ShardsConfig
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(
    clip=ClipConfig(fps=10.0, max_s=2.0, min_frames=8), shards=ShardsConfig(max_bytes=20_000)
)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> PreprocessConfig:
    folder = tmp_path_factory.mktemp("source")
    for seed in range(16):
        write_video(folder / f"{seed}.mp4", moving_square(40 + 2 * seed, seed=seed))
    return replace(CFG, source=str(folder))


def test_the_estimate_is_near_what_comes_of_the_whole_source(cfg):
    decoder = PyAVDecoder(PyAVConfig())
    rows = [row for item in list_inputs(cfg) for row in video_to_clips(item, cfg, decoder)]
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    num_bytes = sum(len(clip.video) for clip in clips)
    lines = "\n".join(estimate(cfg, list_inputs(cfg)))
    said = re.search(r"expected: .*; (\d+) clips .* in (\d+) shards of ([\d.]+) KB", lines)
    assert int(said[1]) == len(clips)  # so few were all decoded
    assert int(said[2]) == pytest.approx(num_bytes / 20_000, rel=0.3)
    assert float(said[3]) == pytest.approx(num_bytes / 1e3, rel=0.01)
    assert "sample: all of them" in lines and "to" not in re.search(r"work: .*", lines)[0].split()
    assert f"inputs: {sum(isinstance(row, VideoRow) for row in rows)} videos" in lines


def test_a_piece_of_a_long_video_stands_for_all_of_it(tmp_path, monkeypatch):
    write_video(tmp_path / "long.mp4", moving_square(600, seed=1))
    cfg = replace(CFG, source=str(tmp_path), piece_s=12.0)
    monkeypatch.setattr(estimate_module, "PIECE_S", 12.0)
    lines = "\n".join(estimate(cfg, list_inputs(cfg)))
    assert "expected: about 1 min 0 s of video; 30 clips of 1 min 0 s in" in lines


def test_a_sample_of_many_videos_says_how_far_off_it_may_be(cfg, monkeypatch):
    monkeypatch.setattr(estimate_module, "MIN_SAMPLED", 4)
    monkeypatch.setattr(estimate_module, "CLOSE_ENOUGH", 1e9)
    lines = "\n".join(estimate(cfg, list_inputs(cfg)))
    assert "sample: 4 of them" in lines
    mean, low, high = map(int, re.search(r"; (\d+) clips \((\d+) to (\d+)\)", lines).groups())
    assert low <= mean <= high


def test_a_deadline_asks_for_nodes_and_half_of_it_for_twice_as_many(cfg):
    def num_nodes(deadline_h: float) -> int:
        lines = "\n".join(estimate(replace(cfg, deadline_h=deadline_h), list_inputs(cfg)))
        return int(re.search(r"nodes: (\d+) of", lines)[1])

    assert num_nodes(100.0) == 1
    assert num_nodes(1e-7) > num_nodes(1e-6) > 10
    assert "nodes:" not in "\n".join(estimate(cfg, list_inputs(cfg)))
