"""Remarks about a LAM's data before it is trained."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lafp.evaluate.probes.training_data import (
    data_remarks,
    few_episodes,
    little_motion,
    why_no_probe,
)
from tests.synthetic_shards import write_shard_set


def labeled(folder, num_train: int, num_val: int) -> str:
    return write_shard_set(
        folder, num_clips=num_train + num_val, num_val_clips=num_val, has_labels=True
    )


def with_motion(folder, motion: list[list[int]]) -> str:
    """A shard set whose training clips have these motions of neighbouring frames."""
    uri = write_shard_set(folder, num_clips=len(motion))
    table = pq.read_table(folder / "clips")
    column = table.schema.get_field_index("pair_motion")
    values = pa.array(motion, pa.list_(pa.int32()))
    pq.write_table(
        table.set_column(column, "pair_motion", values), folder / "clips/part-00000.parquet"
    )
    return uri


def test_two_training_episodes_and_one_held_out_are_enough(tmp_path):
    assert why_no_probe(labeled(tmp_path, 2, 1)) is None


@pytest.mark.parametrize(
    ("num_train", "num_val", "counts", "advice"),
    [
        (1, 1, "1 labeled training episode and 1 held out", "Preprocess more labeled episodes"),
        (1, 2, "1 labeled training episode and 2 held out", r"such as 0\.33"),
        (5, 0, "5 labeled training episodes and 0 held out", r"such as 0\.2"),
    ],
)
def test_a_small_set_is_told_why_there_is_no_probe_and_what_to_do(
    tmp_path, num_train, num_val, counts, advice
):
    remark = data_remarks([uri := labeled(tmp_path, num_train, num_val)], uri)["no_probe"]
    assert counts in remark and "\n" not in remark
    assert "at least 2 and measured on at least 1 other" in remark
    assert re.search(advice, remark)


def test_videos_without_actions_are_not_told_of_a_probe(tmp_path):
    assert data_remarks([write_shard_set(tmp_path, num_clips=4)], None) == {}


@pytest.mark.parametrize(
    ("num_train", "num_val", "advice"),
    [
        (2, 1, "Preprocess more labeled episodes"),
        (13, 2, r"val_fraction=0\.5,"),
        (46, 4, r"val_fraction=0\.15,"),
    ],
)
def test_few_held_out_episodes_are_said_before_training(tmp_path, num_train, num_val, advice):
    remark = data_remarks([uri := labeled(tmp_path, num_train, num_val)], uri)["few_episodes"]
    assert f"fitted on {num_train} and measured on {num_val}" in remark and "\n" not in remark
    assert re.search(advice, remark)


def test_five_held_out_episodes_are_not_few_and_no_probe_is_said_once(tmp_path):
    assert few_episodes(labeled(tmp_path / "enough", 5, 5)) is None
    assert few_episodes(labeled(tmp_path / "no_probe", 5, 0)) is None


def test_where_most_pairs_are_still_a_rate_is_named_at_which_most_move(tmp_path):
    every_fourth = [9 if n % 4 == 3 else 0 for n in range(40)]
    remark = little_motion([with_motion(tmp_path, [every_fourth] * 4)])
    assert "clip.fps=3.33," in remark and "up to 0.0009" in remark  # of 10


def test_a_slow_arm_is_told_the_rate_at_which_it_moves_enough(tmp_path):
    remark = little_motion([with_motion(tmp_path, [[3, 2, 3, 4] * 15] * 4)])
    assert "change by 0.0003 (median" in remark and "Below 0.0004" in remark
    assert "clip.fps=3.33," in remark and "up to 0.0009" in remark  # of 10


def test_changes_above_the_least_are_enough(tmp_path):
    assert little_motion([with_motion(tmp_path, [[9, 0, 4] * 10] * 4)]) is None


def test_videos_in_which_nothing_moves_at_any_rate_are_called_so(tmp_path):
    remark = little_motion([with_motion(tmp_path, [[0] * 99 + [5]] * 4)])
    assert "choose videos in which more moves" in remark


def test_sets_are_looked_at_together(tmp_path):
    still = with_motion(tmp_path / "still", [[0] * 20] * 4)
    moving = with_motion(tmp_path / "moving", [[9] * 60] * 4)
    assert little_motion([still, moving]) is None
    assert little_motion([still]) is not None
