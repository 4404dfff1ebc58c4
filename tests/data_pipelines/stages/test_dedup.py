import numpy as np
import pytest

from data_pipelines.stages.dedup import find_duplicates, signature
from data_pipelines.stages.motion import shrink
from lafp.video import EncodeConfig, decode_clip, encode_clip
from lafp.video.array_video import array_frames
from tests.synthetic_video import moving_square


def signed(*clips: np.ndarray) -> list[tuple[str, str]]:
    return [(f"clip{i}", signature(shrink(frames))) for i, frames in enumerate(clips)]


def rescaled(frames: np.ndarray, side: int) -> np.ndarray:
    return np.stack([frame.pixels() for frame in array_frames(frames, 10, side, side)])


@pytest.mark.parametrize("crf", [18, 28])
def test_a_clip_encoded_or_scaled_again_is_a_duplicate(crf):
    original = moving_square(40, 64, 64, seed=1)
    again = decode_clip(encode_clip(original, 10, EncodeConfig(crf=crf)))
    smaller = rescaled(rescaled(again, 48), 64)
    assert find_duplicates(signed(original, again, smaller)) == {"clip1": "clip0", "clip2": "clip0"}


def test_other_scenes_and_other_motions_in_one_scene_are_kept():
    scene = np.full((40, 64, 64, 3), 90, np.uint8)
    scene[:, 40:] = 160
    left, right = scene.copy(), scene.copy()
    for t in range(40):
        left[t, 10:24, 40 - t : 54 - t] = 250
        right[t, 10:24, t : t + 14] = 250
    others = [moving_square(40, 64, 64, seed=seed) for seed in range(5)]
    assert find_duplicates(signed(left, right, *others)) == {}


def test_the_first_of_many_is_kept_and_all_point_to_it():
    clip = moving_square(20, 64, 64)
    assert find_duplicates(signed(clip, clip, clip)) == {"clip1": "clip0", "clip2": "clip0"}


def test_clips_shorter_than_the_samples_have_a_signature():
    assert len(signature(shrink(moving_square(2, 64, 64)))) == 2 * 4 * 8 * 8 * 3


def test_real_robot_demonstrations_of_one_scene_are_all_kept(shared_videos):
    from data_pipelines.config import PreprocessConfig
    from data_pipelines.rows import EncodedClip, VideoItem
    from data_pipelines.stages.motion import FiltersConfig
    from data_pipelines.video_to_clips import video_to_clips
    from lafp.video import VIDEO_DECODERS

    cfg = PreprocessConfig(filters=FiltersConfig(drop_duplicates=True))
    cls = VIDEO_DECODERS.get("pyav")
    decoder = cls(cls.Config())
    clips = []
    for path in sorted((shared_videos / "robot").glob("openvla__*")):
        item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
        rows = video_to_clips(item, cfg, decoder)
        clips += [(r.record.clip_id, r.signature) for r in rows if isinstance(r, EncodedClip)]
    assert len(clips) == 10
    assert find_duplicates(clips) == {}
