from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.preprocess.clip.measure.motion import pair_motion, shrink
from data_pipelines.preprocess.clip.split_clips import ClipConfig
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import EncodedClip, VideoItem
from lafp.video import decode_clip
from lafp.video.decoders.pyav import PyAVConfig, PyAVDecoder
from tests.synthetic_video import write_video

CFG = PreprocessConfig(clip=ClipConfig(fps=None, max_s=4.0, min_frames=6))
TARGETED = replace(CFG, clip=replace(CFG.clip, target_motion=0.04))


def drifting(px_per_frame: float, num_frames: int = 240) -> np.ndarray:
    """uint8 [T, 64, 64, 3]: smooth waves that move to the right."""
    y, x = np.mgrid[:64, :64]
    t = np.arange(num_frames)[:, None, None] * px_per_frame
    waves = np.sin(2 * np.pi * (x - t) / 64) * np.cos(2 * np.pi * y / 48)
    return np.repeat((127 + 120 * waves)[..., None], 3, axis=-1).astype(np.uint8)


def clips_of(path, cfg) -> list[EncodedClip]:
    item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
    rows = video_to_clips(item, cfg, PyAVDecoder(PyAVConfig()))
    return [row for row in rows if isinstance(row, EncodedClip)]


def test_each_video_gets_the_step_at_which_its_frames_move_as_the_target_says(tmp_path):
    rates, motions, fixed = {}, {}, {}
    for speed in (0.25, 0.5, 1.0, 2.0):
        path = write_video(tmp_path / f"{speed}.mp4", drifting(speed), fps=24)
        clips = clips_of(path, TARGETED)
        assert len({clip.record.fps for clip in clips}) == 1
        rates[speed] = clips[0].record.fps
        motions[speed] = np.median([clip.record.motion for clip in clips])
        fixed[speed] = np.median([clip.record.motion for clip in clips_of(path, CFG)])
    assert max(fixed.values()) > 6 * min(fixed.values())
    assert all(0.036 < motion < 0.085 for motion in motions.values()), motions
    assert rates[0.25] == pytest.approx(rates[0.5] / 2, rel=0.3)
    assert rates[0.5] == pytest.approx(rates[1.0] / 2, rel=0.3)
    assert rates[1.0] < rates[2.0] <= 24


def test_a_video_that_hardly_moves_still_gives_clips_and_fps_is_the_highest_rate(tmp_path):
    slow = write_video(tmp_path / "slow.mp4", drifting(0.002), fps=24)
    (clip, *_) = clips_of(slow, TARGETED)
    assert clip.record.fps == pytest.approx(24 / 16)
    assert clip.record.num_frames >= 6
    fast = write_video(tmp_path / "fast.mp4", drifting(9.0), fps=24)
    assert {c.record.fps for c in clips_of(fast, TARGETED)} == {24.0}
    limited = replace(TARGETED, clip=replace(TARGETED.clip, fps=8.0))
    assert {c.record.fps for c in clips_of(fast, limited)} == {8.0}


def test_motion_of_every_pair_is_in_the_record(tmp_path):
    speeds = np.concatenate([drifting(0.0, 30), drifting(2.0, 30)])
    path = write_video(tmp_path / "v.mp4", speeds, fps=24, options={"crf": "4"})
    (clip,) = clips_of(path, CFG)
    record = clip.record
    assert len(record.pair_motion) == record.num_frames - 1
    seen = pair_motion(shrink(decode_clip(clip.video)))
    np.testing.assert_allclose(np.array(record.pair_motion) / 10_000, seen, atol=0.004)
    assert max(record.pair_motion[:28]) < 20 < 200 < min(record.pair_motion[31:])


def test_the_target_is_checked():
    with pytest.raises(ValueError, match=r"target_motion must be in \(0, 1\)"):
        ClipConfig(target_motion=1.5)
