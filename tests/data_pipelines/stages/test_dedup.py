import numpy as np
import pytest

from data_pipelines.config import PreprocessConfig
from data_pipelines.rows import EncodedClip, VideoItem
from data_pipelines.stages.dedup import Signature, is_duplicate, signature
from data_pipelines.stages.motion import FiltersConfig, shrink
from data_pipelines.video_to_clips import video_to_clips
from lafp.video import VIDEO_DECODERS, EncodeConfig, decode_clip, encode_clip
from lafp.video.array_video import array_frames
from tests.synthetic_video import moving_square


def signed(frames: np.ndarray) -> Signature:
    return signature(shrink(frames), 10.0)


def are_candidates(a: Signature, b: Signature) -> bool:
    return bool(np.any(a.keys == b.keys))


def rescaled(frames: np.ndarray, side: int) -> np.ndarray:
    return np.stack([frame.pixels() for frame in array_frames(frames, 10, side, side)])


@pytest.mark.parametrize("crf", [18, 28])
def test_a_clip_encoded_or_scaled_again_is_a_duplicate(crf):
    original = moving_square(40, 64, 64, seed=1)
    again = decode_clip(encode_clip(original, 10, EncodeConfig(crf=crf)))
    smaller = rescaled(rescaled(again, 48), 64)
    for copy in (again, smaller):
        assert are_candidates(signed(copy), signed(original))
        assert is_duplicate(signed(copy), signed(original))


@pytest.mark.parametrize("first", [3, 11, 19])
def test_what_lies_half_in_an_earlier_clip_is_a_duplicate_of_it_at_any_shift(first):
    video = moving_square(60, 64, 64, seed=1)
    original, later = signed(video[:40]), signed(video[first : first + 40])
    assert are_candidates(later, original)
    assert is_duplicate(later, original)
    assert not is_duplicate(signed(video[30:]), original), "a third is not enough"


def test_other_scenes_and_other_motions_in_one_scene_are_kept():
    scene = np.full((40, 64, 64, 3), 90, np.uint8)
    scene[:, 40:] = 160
    left, right = scene.copy(), scene.copy()
    for t in range(40):
        left[t, 10:24, 40 - t : 54 - t] = 250
        right[t, 10:24, t : t + 14] = 250
    clips = [left, right, *(moving_square(40, 64, 64, seed=seed) for seed in range(5))]
    signatures = [signed(clip) for clip in clips]
    pairs = [(a, b) for a in signatures for b in signatures if a is not b]
    assert not any(is_duplicate(a, b) for a, b in pairs)


def test_the_shortest_clips_have_a_signature():
    clip = moving_square(2, 64, 64)
    assert is_duplicate(signed(clip), signed(clip))
    assert not is_duplicate(signed(clip), signed(moving_square(2, 64, 64, seed=7)))


def test_signatures_survive_their_rows():
    made = signed(moving_square(30, 64, 64))
    stored = Signature.from_bytes(bytes.fromhex(made.to_hex()))
    np.testing.assert_array_equal(stored.keys, made.keys)
    np.testing.assert_array_equal(stored.pictures, made.pictures)
    assert made.pictures.shape == (12, 64)


def test_real_robot_demonstrations_of_one_scene_are_all_kept(shared_videos):
    cfg = PreprocessConfig(filters=FiltersConfig(drop_duplicates=True))
    cls = VIDEO_DECODERS.get("pyav")
    decoder = cls(cls.Config())
    clips = []
    for path in sorted((shared_videos / "robot").glob("openvla__*")):
        item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
        rows = video_to_clips(item, cfg, decoder)
        clips += [
            Signature.from_bytes(bytes.fromhex(row.signature))
            for row in rows
            if isinstance(row, EncodedClip)
        ]
    assert len(clips) == 10
    assert not any(is_duplicate(a, b) for a in clips for b in clips if a is not b)
