import io

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from lafp.video import EncodeConfig, decode_clip, encode_clip
from lafp.video.clip_codec import decode_frames
from tests.synthetic_video import numbered, write_video


def smooth_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    """Slow colour waves: what a lossy codec keeps almost exactly."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [
        [np.sin(3 * x + t / 9), np.sin(2 * y - t / 7), np.sin(2 * (x + y) + t / 8)]
        for t in range(num_frames)
    ]
    return np.clip(127 + 110 * np.array(waves), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("shape", [(30, 64, 64), (7, 48, 48), (5, 33, 47), (1, 16, 32)])
def test_decoding_inverts_encoding(shape, pixel_format):
    frames = smooth_frames(*shape)
    data = encode_clip(frames, 10, EncodeConfig(crf=1, pixel_format=pixel_format))
    decoded = decode_clip(data)
    assert decoded.shape == frames.shape
    assert decoded.dtype == np.uint8
    error = decoded.astype(int) - frames
    assert np.abs(error).mean() < 1.5
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 1, "a colour shift"


def test_full_resolution_colour_survives_in_yuv444p():
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    frames[:, ::2] = 255, 0, 0
    frames[:, 1::2] = 0, 0, 255
    data = encode_clip(frames, 10, EncodeConfig(crf=0, pixel_format="yuv444p"))
    assert np.abs(decode_clip(data).astype(int) - frames).max() <= 4


def test_same_frames_give_the_same_bytes():
    frames = smooth_frames(20, 32, 32)
    assert encode_clip(frames, 12.5, EncodeConfig()) == encode_clip(frames, 12.5, EncodeConfig())


def test_clip_carries_its_rate_and_short_gops_without_b_frames():
    data = encode_clip(smooth_frames(30, 32, 32), 12.5, EncodeConfig(gop_frames=12))
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([i / 12.5 for i in range(30)])
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
    assert keys[0] == 0
    assert max(np.diff([*keys, 30])) <= 12
    assert all(frame.pict_type in (PictureType.I, PictureType.P) for frame in frames)


def test_bytes_that_are_no_clip_are_a_value_error():
    with pytest.raises(ValueError, match="5 bytes does not decode"):
        decode_clip(b"hello")


@pytest.mark.parametrize("shape", [(50, 48, 64), (13, 33, 47), (1, 16, 32)])
def test_some_frames_decode_as_they_do_among_all(shape):
    data = encode_clip(smooth_frames(*shape), 10, EncodeConfig(gop_frames=12))
    whole, rng = decode_clip(data), np.random.default_rng(0)
    for num in {1, min(5, len(whole)), len(whole)}:
        times = np.sort(rng.choice(len(whole), num, replace=False)).tolist()
        out = np.full((num + 1, *shape[1:], 3), 7, np.uint8)
        assert decode_frames(data, times, out) == len(whole)
        np.testing.assert_array_equal(out[:num], whole[times])
        assert (out[num] == 7).all()


def test_frames_that_a_clip_does_not_have_are_a_value_error():
    data = encode_clip(smooth_frames(5, 16, 16), 10, EncodeConfig())
    with pytest.raises(ValueError, match="5 frames has no frame 5"):
        decode_frames(data, [1, 5], np.empty((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"frames \(16, 16, 3\), expected \(16, 32, 3\)"):
        decode_frames(data, [1], np.empty((2, 16, 32, 3), np.uint8))


def test_wrong_frames_are_a_value_error():
    with pytest.raises(ValueError, match=r"uint8 \[T, H, W, 3\]"):
        encode_clip(np.zeros((4, 8, 8, 3), np.float32), 10, EncodeConfig())


@pytest.mark.parametrize("bad", [{"crf": 52}, {"gop_frames": 0}])
def test_config_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        EncodeConfig(**bad)


def test_bytes_that_are_no_mp4_open_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "other.mp4", numbered(8))
    for hostile in (b"ffconcat version 1.0\nfile other.mp4\n", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n"):
        with pytest.raises(ValueError, match="does not decode"):
            decode_clip(hostile)
