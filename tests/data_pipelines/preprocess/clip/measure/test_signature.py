import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig, shrink
from data_pipelines.preprocess.clip.measure.signature import (
    GRID,
    MIN_COVERED,
    MIN_COVERED_IN_VIDEO,
    NUM_KEYS,
    Signature,
    is_duplicate,
    mean_differences,
    signature,
)
from data_pipelines.preprocess.clip.video_to_clips import video_to_clips
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import EncodedClip, VideoItem
from lafp.video import VIDEO_DECODERS, EncodeConfig, decode_clip, encode_clip
from lafp.video.decoders.arrays import array_frames
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
    assert signed(clip).pictures.shape == (1, 64)
    assert not is_duplicate(signed(clip), signed(clip)), "one picture does not move: it is kept"
    assert not is_duplicate(signed(clip), signed(moving_square(2, 64, 64, seed=7)))


def test_signatures_survive_their_rows():
    made = signed(moving_square(30, 64, 64))
    stored = Signature.from_bytes(bytes.fromhex(made.to_hex()))
    np.testing.assert_array_equal(stored.keys, made.keys)
    np.testing.assert_array_equal(stored.pictures, made.pictures)
    assert made.pictures.shape == (12, 64)


def take(seed: int, num_frames: int = 60) -> np.ndarray:
    """uint8 [T, 64, 64, 3]: an arm of random motion before a background that all takes share."""
    rng = np.random.default_rng(seed)
    background = np.random.default_rng(7).integers(40, 200, (8, 8, 3))
    frames = np.stack([background.repeat(8, axis=0).repeat(8, axis=1)] * num_frames)
    knots = rng.uniform(4, 52, (num_frames // 10 + 2, 2))
    for t in range(num_frames):
        y, x = (np.interp(t / 10, np.arange(len(knots)), knots[:, i]) for i in (0, 1))
        frames[t, int(y) : int(y) + 10, int(x) : int(x) + 10] = (90, 80, 70)
    return frames.astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), other=st.integers(10_001, 20_000), first=st.integers(0, 15))
def test_takes_of_one_static_scene_are_kept_and_a_trimmed_copy_is_found(seed, other, first):
    original, another = signed(take(seed)), signed(take(other))
    assert not is_duplicate(another, original)
    assert is_duplicate(signed(take(seed)[first:]), original)


def barred(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scaled into the middle of a black picture."""
    small = np.stack([frame.pixels() for frame in array_frames(frames, 10, width, height)])
    top, left = (64 - height) // 2, (64 - width) // 2
    out = np.zeros_like(frames)
    out[:, top : top + height, left : left + width] = small
    return out


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: (frames * 0.8).astype(np.uint8),
        lambda frames: (frames * 1.1 + 8).clip(0, 255).astype(np.uint8),
        lambda frames: barred(frames, 48, 64),
        lambda frames: barred(frames, 64, 43),
    ],
    ids=["darker", "brighter", "bars above and below", "bars at the sides"],
)
def test_other_brightness_and_black_bars_make_no_other_clip(change):
    for seed in range(5):
        copied, original = signed(change(take(seed))), signed(take(seed))
        assert are_candidates(copied, original)
        assert is_duplicate(copied, original)


def test_clips_of_real_robots_are_all_kept_and_their_copies_found(shared_videos):
    cfg = PreprocessConfig(filters=FiltersConfig(drop_duplicates=True))
    cls = VIDEO_DECODERS.get("pyav")
    decoder = cls(cls.Config())
    clips = []
    for path in sorted((shared_videos / "robot").glob("*.mp4")):
        item = VideoItem(uri=str(path), num_bytes=path.stat().st_size, split=None)
        rows = video_to_clips(item, cfg, decoder)
        clips += [(path, row) for row in rows if isinstance(row, EncodedClip)]
    signatures = [Signature.from_bytes(bytes.fromhex(row.signature)) for _, row in clips]
    assert len(clips) >= 40
    for (path, _), signature_ in zip(clips, signatures, strict=True):
        for (other_path, _), other in zip(clips, signatures, strict=True):
            covered = MIN_COVERED_IN_VIDEO if path == other_path else MIN_COVERED
            assert signature_ is other or not is_duplicate(signature_, other, covered)
    found = [
        is_duplicate(signed(worse(decode_clip(row.video))), signature_)
        for (_, row), signature_ in zip(clips, signatures, strict=True)
        if row.record.motion > 0.002
    ]
    assert len(found) >= 30 and np.mean(found) >= 0.97


def test_blocks_of_cells_are_no_further_apart_than_the_cells_so_they_dismiss_no_copy():
    rng = np.random.default_rng(0)
    extremes = np.eye(2, dtype=np.uint8).repeat(GRID * GRID // 2, axis=1) * 255
    pictures = np.concatenate([rng.integers(0, 256, (30, GRID * GRID), np.uint8), extremes])
    one, other = (Signature(np.zeros(NUM_KEYS, np.uint32), p) for p in (pictures, pictures[::-1]))
    for name in ("centred", "blocks"):
        cells, others = (getattr(s, name).astype(np.int64) for s in (one, other))
        exact = np.abs(cells[:, None] - others).sum(axis=2) / (255 * GRID**2)
        assert np.array_equal(mean_differences(getattr(one, name), getattr(other, name)), exact)
    apart = mean_differences(one.centred, other.centred)
    assert apart.max() > 0.99, "the largest sum there is"
    assert np.all(mean_differences(one.blocks, other.blocks) <= apart)


def worse(frames: np.ndarray) -> np.ndarray:
    """Scaled down and up, and encoded again."""
    side = frames.shape[1]
    return decode_clip(encode_clip(rescaled(rescaled(frames, 48), side), 10, EncodeConfig(crf=28)))
