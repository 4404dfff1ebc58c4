"""Long videos in pieces: the same clips, in one go or piece by piece."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.preprocess.clip.pieces import piece_spans
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import item_videos, video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.manifest import check_accounts
from data_pipelines.preprocess.rows import EncodedClip, ItemRows, LongVideo, VideoItem, VideoRow
from data_pipelines.preprocess.shards import write_part
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(clip=ClipConfig(fps=10.0, max_s=2.0, min_frames=4), piece_s=8.0)
DECODER = PyAVDecoder(PyAVConfig())


def item(path: Path, piece: int | None = None) -> VideoItem:
    size = path.stat().st_size
    return VideoItem(uri=str(path), num_bytes=size, split=None, piece=piece)


def clips_of(rows) -> list[tuple[str, float, float, bytes]]:
    clips = [row for row in rows if isinstance(row, EncodedClip)]
    return [(c.record.clip_id, c.record.start_s, c.record.end_s, c.video) for c in clips]


def long_video(path: Path, cfg: PreprocessConfig = CFG) -> LongVideo:
    ((row,),) = (list(rows) for rows in item_videos(item(path), cfg, DECODER, may_defer=True))
    assert isinstance(row, LongVideo)
    return row


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pieces") / "v.mp4"
    frames = np.concatenate([moving_square(250, seed=seed) for seed in range(2)])
    return write_video(path, frames, options={"crf": "20", "g": "23", "bf": "2"})


def test_pieces_touch_cover_the_video_and_begin_where_clips_begin():
    for duration_s in (0.3, 7.9, 11.9, 12.1, 50.0, 3601.7):
        spans = piece_spans(duration_s, 10.0, 8.0, CFG.clip)
        assert spans[0][0] == 0.0 and spans[-1][1] == duration_s
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
        assert all(end - start <= 12.1 for start, end in spans)
    assert len(piece_spans(11.9, 10.0, 8.0, CFG.clip)) == 1
    assert len(piece_spans(3600.0, 10.0, 1200.0, ClipConfig())) == 3


def test_clips_of_a_sound_video_are_the_same_in_pieces_and_without(sound):
    whole = clips_of(video_to_clips(item(sound), replace(CFG, piece_s=1e6), DECODER))
    assert len(whole) == 25
    assert clips_of(video_to_clips(item(sound), CFG, DECODER)) == whole


@pytest.mark.parametrize(
    "name",
    [
        "media__long_180p_av1.mp4",
        "media__bbb_642x642_768kbps_30fps_vp9.webm",
        "torchcodec__nasa_13013.mp4",
        "mediabunny__cursed-vfr.mp4",
    ],
)
def test_clips_of_real_videos_are_the_same_in_pieces_and_without(name, shared_videos):
    path = shared_videos / "internet" / name
    short = replace(CFG, clip=ClipConfig(fps=5.0, max_s=1.0, min_frames=2), piece_s=2.0)
    if "180p" in name:
        short = replace(short, piece_s=100.0)
    whole = clips_of(video_to_clips(item(path), replace(short, piece_s=1e6), DECODER))
    spans = long_video(path, short).spans_s
    assert len(spans) > 1
    assert clips_of(video_to_clips(item(path), short, DECODER)) == whole


@pytest.mark.parametrize("num_bytes", [0, 10])
def test_pieces_one_by_one_are_all_of_the_video_whatever_its_damage(sound, tmp_path, num_bytes):
    path = tmp_path / "v.mp4"
    data = bytearray(sound.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(1000, data.index(b"moov") - 100, num_bytes):
        data[place] ^= 255
    path.write_bytes(data)
    (at_once,) = write_part([video_to_clips(item(path), CFG, DECODER)], str(tmp_path), "all.tar")
    check_accounts(at_once)
    assert bool(at_once.rejects) == bool(num_bytes)
    found = long_video(path)
    rows = []
    for piece, span_s in enumerate(found.spans_s):
        video, *others = video_to_clips(item(path, piece), CFG, DECODER)
        assert isinstance(video, VideoRow) and video.span_s == span_s
        rows += others
    (joined,) = write_part([[found.video, *rows]], str(tmp_path), "pieces.tar")
    check_accounts(joined)
    strip = {"part": "", "video_offset": 0}
    assert joined.rejects == at_once.rejects
    assert [replace(c, **strip) for c in joined.clips] == [
        replace(c, **strip) for c in at_once.clips
    ]
    assert isinstance(joined, ItemRows) and len(joined.clips) > 3
