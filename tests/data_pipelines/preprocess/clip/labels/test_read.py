import io
import pickle
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.preprocess.clip.labels.npz import read_sidecar, read_stacked
from data_pipelines.preprocess.clip.labels.read import LabelsConfig, align
from data_pipelines.preprocess.clip.resample import Tick, resample
from lafp.data.shards.format import Labels
from lafp.video.decoders.arrays import array_info
from lafp.video.decoders.base import DecodedFrame, VideoError

CFG = LabelsConfig()


def video(num_frames, fps=10.0):
    return array_info(np.zeros((num_frames, 16, 16, 3), np.uint8), fps)


def rows_of(labels, info, start_s, num_frames, fps):
    """The labels of a clip, whose frames are those that `resample` shows."""
    frames = [DecodedFrame(time_s, lambda: None) for time_s in info.times_s.tolist()]
    rate = {"fps": fps, "source_fps": info.fps, "max_hold_s": 2.0, "duration_s": info.duration_s}
    ticks = [tick for tick in resample(frames, **rate) if isinstance(tick, Tick)]
    shown_s = [tick.source.time_s for tick in ticks if tick.time_s >= start_s - 1e-6][:num_frames]
    return labels.of_clip(start_s, fps, np.array(shown_s))


def save(path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_rows_of_a_clip_are_those_of_its_frames(tmp_path):
    action = np.arange(60, dtype=np.float32).reshape(30, 2)
    uri = save(tmp_path / "e.npz", action=action, state=action * 10)
    labels = align(read_sidecar(uri, CFG), video(30, fps=10))
    rows = rows_of(labels, video(30, fps=10), 1.2, 5, 10)
    np.testing.assert_array_equal(rows.true_action, action[12:17])
    np.testing.assert_array_equal(rows.state, 10 * action[12:17])


def test_the_exploration_noise_of_a_clip_is_that_of_its_actions(tmp_path):
    action = np.arange(60, dtype=np.float32).reshape(30, 2)
    uri = save(tmp_path / "e.npz", action=action, action_noise=action / 8)
    labels = align(read_sidecar(uri, CFG), video(30, fps=10))
    rows = rows_of(labels, video(30, fps=10), 1.2, 5, 10)
    np.testing.assert_array_equal(rows.action_noise, action[12:17] / 8)
    np.testing.assert_array_equal(
        Labels.from_bytes(rows.to_bytes()).action_noise, action[12:17] / 8
    )
    uri = save(tmp_path / "odd.npz", action=action, action_noise=action[:, :1])
    with pytest.raises(VideoError, match="action_noise must be finite and"):
        read_sidecar(uri, CFG)


def test_sums_leave_out_the_last_row_and_take_given_bounds(tmp_path):
    action = np.array([[1.0, -2.0], [3.0, 4.0], [99.0, 99.0]], np.float32)
    free = align(read_sidecar(save(tmp_path / "a.npz", action=action), CFG), video(3))
    sums = free.sums(rows_of(free, video(3), 0, 3, 10))
    assert (sums.num_rows, sums.total, sums.total_squares) == (2, (4, 2), (10, 20))
    assert (sums.low, sums.high, sums.is_bounded) == ((1, -2), (3, 4), False)
    bounds = {"action_low": np.array([-5, -5.0]), "action_high": np.array([5, 5.0])}
    bounded = align(read_sidecar(save(tmp_path / "b.npz", action=action, **bounds), CFG), video(3))
    sums = bounded.sums(rows_of(bounded, video(3), 0, 3, 10))
    assert (sums.low, sums.high, sums.is_bounded) == ((-5, -5), (5, 5), True)


@pytest.mark.parametrize("endless", [np.inf, 1e300])
@pytest.mark.parametrize(("key", "sign"), [("action_low", -1), ("action_high", 1)])
def test_infinite_bounds_are_no_bounds(tmp_path, endless, key, sign):
    action = np.array([[1.0, -2.0], [3.0, 4.0], [99.0, 99.0]], np.float32)
    bounds = {"action_low": np.array([-5, -5.0]), "action_high": np.array([5, 5.0])}
    bounds[key] = np.array([sign * 5.0, sign * endless])
    labels = align(read_sidecar(save(tmp_path / "a.npz", action=action, **bounds), CFG), video(3))
    sums = labels.sums(rows_of(labels, video(3), 0, 3, 10))
    assert np.isfinite([*sums.low, *sums.high]).all()
    assert not sums.is_bounded


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1.0), (0.0, np.nan), (1.0, 0.0)])
def test_bounds_that_are_no_interval_are_no_labels(tmp_path, low, high):
    bounds = {"action_low": np.array([0.0, low]), "action_high": np.array([1.0, high])}
    uri = save(tmp_path / "a.npz", action=np.zeros((3, 2)), **bounds)
    with pytest.raises(VideoError, match="action_") as caught:
        read_sidecar(uri, CFG)
    assert caught.value.reason == "no_labels"


@pytest.mark.parametrize(
    "odd", [np.int64(-1), np.int64(2**16), np.int64(2**62), np.uint64(2**63), np.int8(-128)]
)
def test_a_discrete_action_that_is_no_choice_costs_its_row(tmp_path, odd):
    action = np.array([2, 0, 3, 0], odd.dtype)
    action[1] = odd
    labels = read_sidecar(save(tmp_path / "a.npz", action=action), CFG)
    assert [flaw.row for flaw in labels.flaws] == [1]


@pytest.mark.parametrize("key", ["action", "timestamp", "state"])
def test_a_single_number_for_stacked_episodes_is_a_mismatch(tmp_path, key):
    arrays = {"action": np.zeros((2, 4, 3)), key: np.float32(1)}
    save(tmp_path / "a.npz", image_0=np.zeros((2, 4, 16, 16, 3), np.uint8), **arrays)
    with pytest.raises(VideoError, match=f"{key} .* has no row 0") as caught:
        [episode.labels() for episode in read_stacked(tmp_path / "a.npz", CFG)]
    assert caught.value.reason == "labels_mismatch"


def test_integer_actions_are_discrete(tmp_path):
    uri = save(tmp_path / "a.npz", action=np.array([2, 0, 3, 0]))
    labels = align(read_sidecar(uri, CFG), video(4))
    rows = rows_of(labels, video(4), 0, 4, 10)
    assert rows.true_action.dtype == np.int64
    assert labels.sums(rows).num_choices == 4


def test_stacked_episodes_come_one_by_one(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    action = np.random.default_rng(1).normal(size=(3, 4, 7)).astype(np.float32)
    path = tmp_path / "e.npz"
    save(
        path, image_0=frames, action=action, state=action, condition=np.eye(3), goal=["a", "b", "c"]
    )
    assert len(list(read_stacked(path, CFG))) == 3
    for i, episode in enumerate(read_stacked(path, CFG)):
        np.testing.assert_array_equal(episode.frames, frames[i])
        labels = episode.labels()
        np.testing.assert_array_equal(labels.action, action[i])
        rows = rows_of(align(labels, video(4)), video(4), 0.1, 2, 10)
        assert rows.condition.dtype == np.float32
        np.testing.assert_array_equal(rows.condition, np.eye(3)[i])


def test_files_without_usable_labels_are_rejected_and_never_unpickled(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    evil = io.BytesIO()
    np.savez(evil, action=np.array([{"a": 1}], dtype=object))
    (tmp_path / "pickled.npz").write_bytes(evil.getvalue())
    (tmp_path / "plain.npz").write_bytes(pickle.dumps([1]))
    save(tmp_path / "empty.npz", other=np.zeros(3))
    save(tmp_path / "words.npz", action=np.array([["a", "b"], ["c", "d"]]))
    save(tmp_path / "conditions.npz", action=np.zeros((3, 2)), condition=np.zeros((3, 2)))
    save(tmp_path / "lost.npz", action=np.zeros((3, 2)), condition=np.full(2, np.inf))
    for name in [
        "conditions",
        "lost",
        "bad",
        "pickled",
        "plain",
        "empty",
        "words",
        "missing",
    ]:
        with pytest.raises(VideoError) as caught:
            read_sidecar(str(tmp_path / f"{name}.npz"), CFG)
        assert caught.value.reason == "no_labels", name


def test_an_array_beyond_the_memory_limit_is_rejected_before_it_is_read(tmp_path):
    path = tmp_path / "e.npz"
    np.savez_compressed(path, image_0=np.zeros((8, 8, 64, 64, 3), np.uint8), action=np.zeros(1))
    with pytest.raises(VideoError) as caught:
        list(read_stacked(path, LabelsConfig(max_array_bytes=100_000)))
    assert caught.value.reason == "too_many_bytes"


def rows_of_clip(tmp_path, info, start_s, num_frames, fps, **arrays) -> list[int]:
    """Numbers of the rows that a clip takes."""
    labels = align(read_sidecar(save(tmp_path / "a.npz", **arrays), CFG), info)
    rows = rows_of(labels, info, start_s, num_frames, fps)
    np.testing.assert_array_equal(rows.true_action, rows.state)
    return rows.true_action[:, 0].astype(int).tolist()


def counting(num_rows, **arrays):
    action = np.arange(num_rows, dtype=np.float32)[:, None]
    return {"action": action, "state": action, **arrays}


@pytest.mark.parametrize(
    ("clip_fps", "expected"),
    [
        (30, [0, 1, 2, 3, 4, 5]),
        (10, [0, 3, 6, 9, 12, 15]),
        (15, [0, 2, 4, 6, 8, 10]),
        (20, [0, 1, 3, 4, 6, 7]),
        (60, [0, 0, 1, 1, 2, 2]),
    ],
)
def test_a_clip_of_another_rate_takes_the_rows_of_the_frames_it_shows(tmp_path, clip_fps, expected):
    rows = rows_of_clip(tmp_path, video(30, fps=30), 0.0, 6, clip_fps, **counting(30))
    assert rows == expected


def test_rows_of_any_control_rate_hold_until_the_next(tmp_path):
    def rows(control_hz, seconds=3, start_s=1.0):
        times = np.arange(seconds * control_hz) / control_hz
        arrays = counting(len(times), timestamp=times.astype(np.float32))
        return rows_of_clip(tmp_path, video(30, fps=10), start_s, 6, 10, **arrays)

    assert rows(control_hz=10) == [10, 11, 12, 13, 14, 15]
    assert rows(control_hz=50) == [50, 55, 60, 65, 70, 75]
    assert rows(control_hz=5) == [5, 5, 6, 6, 7, 7]
    assert rows(control_hz=2) == [2, 2, 2, 2, 2, 3]


def test_the_rows_of_a_variable_frame_rate_are_those_of_its_frames(tmp_path):
    times = np.array([0.0, 0.1, 0.2, 0.6, 0.7])
    info = replace(video(5), times_s=times, is_constant_rate=False, duration_s=0.8)
    assert rows_of_clip(tmp_path, info, 0.0, 8, 10, **counting(5)) == [0, 1, 2, 2, 2, 2, 3, 4]


def test_labels_that_do_not_cover_the_video_are_a_mismatch(tmp_path):
    def error(num_frames, num_rows, **arrays):
        uri = save(tmp_path / "a.npz", **counting(num_rows, **arrays))
        with pytest.raises(VideoError) as caught:
            align(read_sidecar(uri, CFG), video(num_frames))
        return str(caught.value)

    assert error(21, 20) == "labels_mismatch: 21 frames, 20 rows of labels"
    assert error(21, 1, timestamp=np.zeros(1)) == "labels_mismatch: 1 row of labels for 21 frames"
    short = error(21, 20, timestamp=np.arange(20) / 20)
    assert "labels from 0.000 to 1.000 s, the video ends at 2.100 s" in short
    assert "labels.time_key=null" in short
    assert "labels from 0.500" in error(20, 20, timestamp=0.5 + np.arange(20) / 10)
    assert "ascend" in error(20, 20, timestamp=np.zeros(20))
    message = error(20, 20, timestamp=np.arange(19) / 10)
    assert "time stamps must have one row per action (20), got [19]" in message


def test_one_episode_may_have_its_own_keys_and_one_frame_more(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8)
    actions = np.arange(40, dtype=np.float32).reshape(20, 2)
    path = tmp_path / "trajectory.npz"
    save(path, obs_rgb=frames, actions=actions, gripper=-actions[:, 0], proprio=np.ones((21, 3)))
    cfg = LabelsConfig(
        frames_key="obs_rgb", action_parts=("actions", "gripper"), state_key="proprio"
    )
    for episode in read_stacked(path, cfg):
        np.testing.assert_array_equal(episode.frames, frames)
        labels = episode.labels()
    rows = rows_of(align(labels, video(21)), video(21), 0.0, 21, 10)
    np.testing.assert_array_equal(rows.true_action[:-1, :2], actions)
    np.testing.assert_array_equal(rows.true_action[:-1, 2], -actions[:, 0])
    assert rows.state.shape == (21, 3)


def test_an_error_lists_what_the_file_holds_and_the_keys_to_set(tmp_path):
    path = tmp_path / "trajectory.npz"
    save(path, obs_rgb=np.zeros((21, 16, 16, 3), np.uint8), actions=np.zeros((20, 2)))
    with pytest.raises(VideoError) as caught:
        list(read_stacked(path, CFG))
    for word in ("obs_rgb uint8 [21, 16, 16, 3]", "actions float64 [20, 2]", "labels.frames_key"):
        assert word in caught.value.detail
    with pytest.raises(VideoError) as caught:
        next(read_stacked(path, LabelsConfig(frames_key="obs_rgb"))).labels()
    assert "no array 'action'" in caught.value.detail and "labels.action_key" in str(caught.value)
    with pytest.raises(VideoError) as caught:
        read_sidecar(str(path), CFG)
    assert "trajectory.npz: it holds obs_rgb" in caught.value.detail


def test_a_damaged_archive_is_no_labels(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, action=np.random.default_rng(0).normal(size=(3000, 2)))
    data = bytearray(path.read_bytes())
    for at in range(40, len(data) - 100, 37):
        broken = data.copy()
        broken[at] ^= 0xFF
        path.write_bytes(broken)
        try:
            read_sidecar(str(path), CFG)
        except VideoError as error:
            assert error.reason == "no_labels"


def test_a_time_key_of_null_pairs_rows_with_frames(tmp_path):
    arrays = counting(20, timestamp=np.arange(20) / 7 + 100)
    uri = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(VideoError, match=r"labels\.time_key=null"):
        align(read_sidecar(uri, CFG), video(20))
    labels = align(read_sidecar(uri, LabelsConfig(time_key=None)), video(20))
    assert labels.is_per_frame
    slow = {"timestamp": np.arange(20) / 9.6}  # a clock that differs a little
    assert rows_of_clip(tmp_path, video(20), 0.0, 20, 10, **counting(20, **slow)) == list(range(20))


def test_the_rate_of_frames_is_that_of_their_time_stamps(tmp_path):
    """Row t is frame t, on whatever clock; nothing is assumed."""
    frames = np.zeros((2, 20, 16, 16, 3), np.uint8)
    stamps = np.stack([1.7e9 + np.arange(20) / 30, np.arange(20) / 20])
    action = np.arange(80, dtype=np.float32).reshape(2, 20, 2)
    path = tmp_path / "e.npz"
    save(path, image_0=frames, action=action, timestamp=stamps)
    episodes = list(read_stacked(path, CFG))
    assert [round(episode.rate.fps, 3) for episode in episodes] == [30.0, 20.0]
    assert not any(episode.rate.is_assumed for episode in episodes)
    for i, episode in enumerate(read_stacked(path, CFG)):
        info = video(20, episode.rate.fps)
        rows = rows_of(align(episode.labels(), info), info, 0.0, 20, info.fps)
        np.testing.assert_array_equal(rows.true_action, action[i])
    assert next(read_stacked(path, LabelsConfig(fps=7.0))).rate.fps == 7.0
    assert next(read_stacked(path, LabelsConfig(time_key=None))).rate.is_assumed
