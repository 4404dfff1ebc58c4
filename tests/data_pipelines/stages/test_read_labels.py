import io
import pickle

import numpy as np
import pytest

from data_pipelines.stages.read_labels import (
    LabelsConfig,
    check_belong,
    read_sidecar,
    read_stacked,
)
from lafp.video.array_video import array_info
from lafp.video.decoder import VideoError

CFG = LabelsConfig()


def save(path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_rows_of_a_clip_are_those_of_its_frames(tmp_path):
    action = np.arange(60, dtype=np.float32).reshape(30, 2)
    uri = save(tmp_path / "e.npz", action=action, state=action * 10)
    labels = read_sidecar(uri, CFG)
    rows = labels.of_clip(start_s=1.2, num_frames=5, fps=10)
    np.testing.assert_array_equal(rows.true_action, action[12:17])
    np.testing.assert_array_equal(rows.state, 10 * action[12:17])


def test_sums_leave_out_the_last_row_and_take_given_bounds(tmp_path):
    action = np.array([[1.0, -2.0], [3.0, 4.0], [99.0, 99.0]], np.float32)
    free = read_sidecar(save(tmp_path / "a.npz", action=action), CFG)
    sums = free.sums(free.of_clip(0, 3, 10))
    assert (sums.num_rows, sums.total, sums.total_squares) == (2, (4, 2), (10, 20))
    assert (sums.low, sums.high, sums.is_bounded) == ((1, -2), (3, 4), False)
    bounds = {"action_low": np.array([-5, -5.0]), "action_high": np.array([5, 5.0])}
    bounded = read_sidecar(save(tmp_path / "b.npz", action=action, **bounds), CFG)
    sums = bounded.sums(bounded.of_clip(0, 3, 10))
    assert (sums.low, sums.high, sums.is_bounded) == ((-5, -5), (5, 5), True)


def test_integer_actions_are_discrete(tmp_path):
    labels = read_sidecar(save(tmp_path / "a.npz", action=np.array([2, 0, 3, 0])), CFG)
    rows = labels.of_clip(0, 4, 10)
    assert rows.true_action.dtype == np.int64
    assert labels.sums(rows).num_choices == 4


def test_stacked_episodes_come_one_by_one(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    action = np.random.default_rng(1).normal(size=(3, 4, 7)).astype(np.float32)
    path = tmp_path / "e.npz"
    save(path, image_0=frames, action=action, state=action, language=np.array(["a", "b", "c"]))
    episodes = list(read_stacked(path, CFG))
    assert len(episodes) == 3
    for i, (pixels, labels) in enumerate(episodes):
        np.testing.assert_array_equal(pixels, frames[i])
        np.testing.assert_array_equal(labels.action, action[i])


def test_files_without_usable_labels_are_rejected_and_never_unpickled(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    evil = io.BytesIO()
    np.savez(evil, action=np.array([{"a": 1}], dtype=object))
    (tmp_path / "pickled.npz").write_bytes(evil.getvalue())
    (tmp_path / "plain.npz").write_bytes(pickle.dumps([1]))
    save(tmp_path / "empty.npz", other=np.zeros(3))
    save(tmp_path / "nan.npz", action=np.full((3, 2), np.nan))
    for name in ["bad", "pickled", "plain", "empty", "nan", "missing"]:
        with pytest.raises(VideoError) as caught:
            read_sidecar(str(tmp_path / f"{name}.npz"), CFG)
        assert caught.value.reason == "no_labels", name


def test_an_array_beyond_the_memory_limit_is_rejected_before_it_is_read(tmp_path):
    path = tmp_path / "e.npz"
    np.savez_compressed(path, image_0=np.zeros((8, 8, 64, 64, 3), np.uint8), action=np.zeros(1))
    with pytest.raises(VideoError) as caught:
        list(read_stacked(path, LabelsConfig(max_array_bytes=100_000)))
    assert caught.value.reason == "too_many_bytes"


def test_labels_belong_to_frames_of_their_number_and_rate(tmp_path):
    labels = read_sidecar(save(tmp_path / "a.npz", action=np.zeros((20, 2))), CFG)
    video = array_info(np.zeros((20, 16, 16, 3), np.uint8), 10)
    check_belong(labels, video, 10)
    with pytest.raises(VideoError, match=r"at 10 fps, clip.fps is 5: set clip.fps=null"):
        check_belong(labels, video, 5)
    longer = array_info(np.zeros((21, 16, 16, 3), np.uint8), 10)
    with pytest.raises(VideoError, match="21 frames, 20 rows"):
        check_belong(labels, longer, 10)
