"""Which split a video goes to, when others share its content or its episode."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import ClipRow, ItemRows, VideoRow
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from lafp.data.shards.format import ClipRecord
from tests.data_pipelines.preprocess.test_scale import write_known_set
from tests.selecting import kept_clips, select_items

CFG = PreprocessConfig(source="x", val_fraction=0.5)
LOW, HIGH = "0" * 32, "f" * 32
"""Hashes on both sides of ``val_fraction``."""


def item(uri: str, video_id: str, episode_id: str) -> ItemRows:
    """A video of one clip."""
    record = ClipRecord(
        clip_id=f"{uri:0>32}",
        video_id=video_id,
        video_uri=uri,
        source="x",
        episode_id=episode_id,
        split="train",
        start_s=0.0,
        end_s=2.0,
        fps=10.0,
        width_px=16,
        height_px=16,
        num_frames=20,
        source_fps=10.0,
        source_width_px=16,
        source_height_px=16,
        source_codec="h264",
        motion=0.1,
        has_labels=False,
        num_bytes=100,
    )
    video = VideoRow(
        uri=uri,
        video_id=video_id,
        split=None,
        num_bytes=100,
        duration_s=2.0,
        episode_id=episode_id,
    )
    return ItemRows(videos=(video,), clips=(ClipRow(record=record, part="p", video_offset=0),))


def splits(folder: Path, items: Sequence[ItemRows], sets: FinishedSets | None = None):
    found = select_items(CFG, items, folder, sets)
    return {clip.record.video_uri: clip.record.split for clip in kept_clips(found)}


@pytest.mark.parametrize("first", [LOW, HIGH])
def test_a_dropped_copy_joins_its_episode_to_the_one_of_the_kept_file(tmp_path, first):
    second = {LOW: HIGH, HIGH: LOW}[first]
    a, c, d = item("a", "1" * 32, first), item("c", "1" * 32, second), item("d", "2" * 32, second)
    (tmp_path / "apart").mkdir()
    apart = splits(tmp_path / "apart", [a, d])
    assert apart["a"] != apart["d"]
    # The second camera of the second episode shows what the first episode does.
    found = splits(tmp_path, [a, c, d])
    assert found == {"a": apart["a"], "d": apart["a"]}


@pytest.mark.parametrize("order", [("train", "val"), ("val", "train"), ("val", "val")])
def test_a_file_that_one_of_two_sets_trains_on_is_of_training(tmp_path, order):
    uris = []
    for number, split in enumerate(order):
        (known,) = (rows := item(f"{number}", "1" * 32, f"{number}")).clips
        of_split = replace(known, record=replace(known.record, split=split))
        folder = tmp_path / f"set {number}"
        uris.append(write_known_set([replace(rows, clips=(of_split,))], folder, {}, 1))
    items = [item("a", "1" * 32, "e" * 32), item("b", "2" * 32, "e" * 32)]
    expected = "train" if "train" in order else "val"
    assert splits(tmp_path, items, FinishedSets(uris)) == {"b": expected}
