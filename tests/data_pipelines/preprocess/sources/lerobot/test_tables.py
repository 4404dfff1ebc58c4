"""Which row is which frame: whatever a table looks like, no frame gets another one's action."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.preprocess.clip.labels.read import LabelsConfig
from data_pipelines.preprocess.sources.lerobot.tables import Promised, table_labels
from lafp.video.decoders.base import VideoError

CFG = LabelsConfig()


def table_of(frames, fps=10.0, **columns):
    """One row for each of these frames; ``action[0]`` is the frame's number."""
    frames = np.asarray(frames)
    action = [[float(frame), -float(frame)] for frame in frames]
    stamps = (frames / fps).astype(np.float32)
    made = {"action": action, "timestamp": stamps, "frame_index": frames} | columns
    return pa.table({name: column for name, column in made.items() if column is not None})


def labels_of(table, num_frames, length=None):
    promised = Promised(episode=3, length=length, fps=10.0)
    return table_labels(table, num_frames, promised, CFG)


def error_of(table, num_frames, **more) -> str:
    with pytest.raises(VideoError) as caught:
        labels_of(table, num_frames, **more)
    return str(caught.value)


CLOCKS = st.sampled_from(["frames", "real", "pause", "jitter", "none"])


@settings(max_examples=200, deadline=None)
@given(
    num_frames=st.integers(4, 60),
    missing=st.sets(st.integers(0, 59), max_size=4),
    twice=st.sets(st.integers(0, 59), max_size=3),
    clock=CLOCKS,
    pause_steps=st.integers(1, 80),
    has_index=st.booleans(),
    has_length=st.booleans(),
    is_shuffled=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_no_frame_gets_the_action_of_another(
    num_frames, missing, twice, clock, pause_steps, has_index, has_length, is_shuffled, seed
):
    """Rows that are missing or there twice, in any order, beside clocks of all kinds."""
    rng = np.random.default_rng(seed)
    frames = [f for f in range(num_frames) if f not in missing for _ in range(1 + (f in twice))]
    if not frames:
        return
    if is_shuffled and has_index:
        rng.shuffle(frames)
    at_s = np.array(frames) / 10.0
    if clock == "real":
        at_s = at_s * 10 / 9.4
    elif clock == "pause":
        at_s = at_s + pause_steps / 10 * (at_s > at_s.mean())
    elif clock == "jitter":
        at_s = at_s + rng.normal(0, 0.02, len(at_s))
    table = table_of(
        frames,
        frame_index=frames if has_index else None,
        timestamp=None if clock == "none" else at_s.astype(np.float32),
    )
    # Without frame numbers, as many rows too few as too many cannot be told: nothing says which.
    may_hide = not has_index and len(frames) == num_frames and clock != "frames"
    if may_hide and (missing & set(range(num_frames))):
        return
    try:
        labels = labels_of(table, num_frames, length=num_frames if has_length else None)
    except VideoError as error:
        assert error.reason == "labels_mismatch"
        assert missing or twice or clock == "pause" or is_shuffled
        return
    flawed = {flaw.row for flaw in labels.flaws}
    assert len(labels.action) == num_frames
    for frame in set(range(num_frames)) - flawed:
        assert labels.action[frame, 0] == frame
    assert flawed <= missing  # rows that are alike are one row


@pytest.mark.parametrize("has_index", [True, False])
def test_a_real_clock_moves_no_row(has_index):
    rows = np.arange(100)
    real = table_of(rows, timestamp=rows / 9.4 + 1.7e9, frame_index=rows if has_index else None)
    labels = labels_of(real, 100, length=100)
    assert labels.flaws == ()
    np.testing.assert_array_equal(labels.action[:, 0], rows)


def test_rows_that_differ_in_number_from_frames_or_length_are_a_mismatch():
    assert "38 frames, 40 rows of labels" in error_of(table_of(range(40)), 38)
    message = error_of(table_of(range(40)), 40, length=44)
    assert "40 frames, 40 rows of labels, and its length is 44" in message
    stamps_only = table_of([0, 1, 2, 4, 5, 9], frame_index=None)
    assert "labels.time_key" in error_of(stamps_only, 6)
    backwards = table_of(range(4), frame_index=None, timestamp=[0.0, 0.13, 0.12, 0.3])
    assert "labels.time_key" in error_of(backwards, 4)
    others = table_of(range(4), episode_index=[3, 3, 4, 4])
    assert "rows of episodes [3, 4]" in error_of(others, 4)


def test_stamps_that_name_other_frames_than_the_index_are_a_mismatch():
    frames = [0, 1, 2, 2, 4, 5]
    assert "name different frames" in error_of(table_of(frames, frame_index=range(6)), 6)


def test_bad_rows_are_named_and_cost_their_frames_only():
    action = [[float(t), 0.5] for t in range(8)]
    action[2] = [2.0, float("nan")]
    action[4] = [4.0, 0.5, 1.0]
    action[5] = None
    action[6] = [float("inf"), 0.5]
    state = [[float(t)] for t in range(8)]
    state[0] = [None]
    table = table_of(range(8), action=action, **{"observation.state": state})
    labels = labels_of(table, 8, length=8)
    assert {flaw.row: flaw.detail for flaw in labels.flaws} == {
        0: "observation.state is not numbers",
        2: "action[1] is nan",
        4: "action has shape [3]",
        5: "action is not numbers",
        6: "action[0] is inf",
    }
    assert labels.name == "episode 3"
    np.testing.assert_array_equal(labels.action[[1, 3, 7], 0], [1, 3, 7])


def test_two_rows_of_one_frame_that_differ_cost_that_frame():
    table = table_of([0, 1, 1, 2], action=[[0.0], [1.0], [9.0], [2.0]])
    labels = labels_of(table, 3)
    assert [(flaw.row, flaw.detail) for flaw in labels.flaws] == [
        (1, "the table has two rows of this frame")
    ]
