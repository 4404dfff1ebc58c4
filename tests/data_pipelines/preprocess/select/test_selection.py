"""What is decided depends neither on blocks nor on Ray, and goes on where it was killed."""

import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from data_pipelines.preprocess.clip.measure.motion import FiltersConfig
from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.rows import ItemRows, LabelSums
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from data_pipelines.preprocess.select.selection import Selected, Selection
from data_pipelines.preprocess.select.steps import InProcess, OnRay, Tables
from lafp.config import ConfigError
from lafp.data.shards.format import signatures_name
from lafp.storage import StorageError
from ray_jobs.core.cluster import start_local
from tests.data_pipelines.preprocess.test_scale import rows_of, write_known_set, write_looks
from tests.selecting import kept_clips, rejects_of, select_blocks

NUM_VIDEOS = 12
MANY_BLOCKS = 101
"""Another of Ray's shuffles brings the rows of so many together."""
CFG = PreprocessConfig(
    source="synthetic", val_fraction=0.3, filters=FiltersConfig(drop_duplicates=True)
)


@pytest.fixture(scope="module")
def local_ray():
    start_local(2)
    yield
    ray.shutdown()


@pytest.fixture
def items(tmp_path) -> list[ItemRows]:
    """Videos of which every third shares a clip with the next, and one clip is in 24 places.

    Video 7 is a copy of video 1, and videos 4 and 9 show one episode.
    """
    rows = [rows_of(number) for number in range(NUM_VIDEOS)]
    rng = np.random.default_rng(3)
    looks, often = {}, rng.random((6, 8, 8, 3), np.float32)
    for number in range(0, NUM_VIDEOS, 3):
        shared = rng.random((6, 8, 8, 3), np.float32)
        for item, clip in ((rows[number], 0), (rows[number + 1], 1)):
            looks[item.clips[clip].record.clip_id] = shared
    for item in rows:
        noise = rng.normal(0, 0.002, (2, 6, 8, 8, 3)).astype(np.float32)
        for clip, added in zip(item.clips[2:], noise, strict=True):
            looks[clip.record.clip_id] = (often + added).clip(0, 1)
    write_looks(rows, tmp_path, looks)
    write_known_sets(looks, rows, tmp_path)
    rows[7] = copy_of(rows[7], rows[1])
    for number in (4, 9):
        (video,) = rows[number].videos
        rows[number] = replace(rows[number], videos=(replace(video, episode_id="e" * 32),))
    return rows


def copy_of(item: ItemRows, first: ItemRows) -> ItemRows:
    """The item with the content of another one."""
    video_id = first.videos[0].video_id
    clips = tuple(
        replace(clip, record=replace(clip.record, video_id=video_id)) for clip in item.clips
    )
    return replace(item, videos=(replace(item.videos[0], video_id=video_id),), clips=clips)


def write_known_sets(looks, rows, folder: Path) -> None:
    """Two sets: the first knows the clip in 24 places, both know clip 0 of video 3."""
    knows = {0: {5: (1, 2), 11: (3, 0)}, 1: {2: (3, 0), 4: (3, 0), 9: (6, 0)}}
    for number, places in knows.items():
        known = [rows_of(100 + 10 * number + i) for i in range(3)]
        clips = [clip.record.clip_id for item in known for clip in item.clips]
        of_set = {
            clips[place]: looks[rows[video].clips[clip].record.clip_id]
            for place, (video, clip) in places.items()
        }
        write_known_set(known, folder / f"set_{number}", of_set, clips_per_shard=5)


def known_sets(folder: Path, block_clips: int = 2048) -> FinishedSets:
    return FinishedSets([str(folder / f"set_{number}") for number in range(2)], block_clips)


def divided(items: list[ItemRows], size: int) -> list[list[ItemRows]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def outcome(selected: Selected) -> tuple:
    """Clips with their splits, rejects, and the sums of both."""
    clips = [(clip.record, clip.part, clip.video_offset) for clip in kept_clips(selected)]
    counts: dict[str, int] = defaultdict(int)
    for total in selected.block_totals():
        counts["videos"] += total.num_videos
        counts["with clips"] += total.num_with_clips
        for reason, number in total.spans.items():
            counts[reason] += number
    for kept in selected.kept_totals():
        counts[kept.split] += kept.num_clips
    return clips, rejects_of(selected), dict(counts)


def test_one_block_gives_what_the_listing_says(items, tmp_path):
    clips, rejects, counts = outcome(select_blocks(CFG, [items], tmp_path))
    assert counts["videos"] == NUM_VIDEOS and counts["same_file"] == 1
    (copy,) = (row for row in rejects if row.reason == "same_file")
    assert copy.video_uri == items[7].videos[0].uri and copy.detail == items[1].videos[0].uri
    repeated = {row.original_clip_id for row in rejects if row.reason == "near_duplicate"}
    of_video = {number: [c.record.clip_id for c in items[number].clips] for number in (0, 3, 6, 9)}
    # Video 7, which would share a clip with video 6, is a copy.
    assert repeated == {of_video[0][0], of_video[3][0], of_video[9][0], of_video[0][2]}
    # Of 11 videos with 4 clips each: 3 shared with the next, and 21 copies of the one everywhere.
    assert len(clips) == 44 - 3 - 21
    split_of = {record.video_uri: record.split for record, *_ in clips}
    assert len({split_of[items[number].videos[0].uri] for number in (4, 9)}) == 1
    kept = [(record.split, record.video_id, record.start_s) for record, *_ in clips]
    assert kept == sorted(kept)


@pytest.mark.parametrize(
    ("with_sets", "num_blocks"), [(False, NUM_VIDEOS), (True, NUM_VIDEOS), (True, MANY_BLOCKS)]
)
def test_neither_blocks_nor_ray_matter(local_ray, items, tmp_path, with_sets, num_blocks):
    sets = known_sets(tmp_path) if with_sets else None
    expected = outcome(select_blocks(CFG, [items], tmp_path, sets, "one"))
    known = known_sets(tmp_path, 16) if with_sets else None  # blocks that begin within shards of 5
    in_process = select_blocks(CFG, divided(items, 5), tmp_path, known, "several")
    assert outcome(in_process) == expected
    on_ray = select_blocks(CFG, divided(items, 2), tmp_path, known, "ray", OnRay(num_blocks))
    assert outcome(on_ray) == expected


class Measured(OnRay):
    """Writes down how many bytes there are of each group, and of each table made of it."""

    def __init__(self, num_blocks: int, sizes: Path) -> None:
        super().__init__(num_blocks)
        self.sizes = sizes

    def grouped(self, rows, num_buckets, function):
        sizes = self.sizes

        def measured(group):
            made = function(group)
            for table in [made] if isinstance(made, pa.Table) else made:
                with sizes.open("a") as file:
                    file.write(f"{group.nbytes} {table.nbytes}\n")
                yield table

        return super().grouped(rows, num_buckets, measured)


def test_a_clip_in_hundreds_of_places_fits_into_a_task(local_ray, tmp_path):
    """Nearly all are compared with the first 16. Copied beside each pair, these are 9 MB."""
    rows = [rows_of(number) for number in range(120)]
    look = np.random.default_rng(3).random((40, 8, 8, 3), np.float32)
    write_looks(rows, tmp_path, {clip.record.clip_id: look for row in rows for clip in row.clips})
    expected = outcome(select_blocks(CFG, [rows], tmp_path, None, "one"))
    assert expected[2]["near_duplicate"] == 479
    runner = Measured(10, tmp_path / "sizes")
    on_ray = select_blocks(CFG, divided(rows, 12), tmp_path, None, "ray", runner)
    assert outcome(on_ray) == expected
    sizes = [list(map(int, line.split())) for line in runner.sizes.read_text().splitlines()]
    assert len(sizes) > 30 and max(map(max, sizes)) < 2**20


class StoppedError(Exception):
    """Names the step after which a selection has stopped."""


class StoppingTables(Tables):
    """Stops after each step that has run."""

    def step(self, name, run):
        is_new = not self.is_complete(name)
        super().step(name, run)
        if is_new:
            raise StoppedError(name)


def test_a_selection_that_stops_after_each_step_does_none_again(local_ray, items, tmp_path):
    blocks, sets = divided(items, 4), known_sets(tmp_path, 16)
    expected = outcome(select_blocks(CFG, blocks, tmp_path, sets, "one", OnRay(NUM_VIDEOS)))
    steps = {path.stem for path in (tmp_path / "one").glob("*.json")}
    shutil.copytree(tmp_path / "one", tmp_path / "again", ignore=only_blocks)
    selection = Selection(
        runner=OnRay(NUM_VIDEOS),
        tables=StoppingTables(str(tmp_path / "again")),
        work=str(tmp_path),
        blocks=range(len(blocks)),
        val_fraction=CFG.val_fraction,
        drop_duplicates=True,
        sets=sets,
    )
    times: dict[Path, int] = {}
    while True:
        try:
            selected = selection.run()
            break
        except StoppedError as stopped:
            name = str(stopped)
        steps.remove(name)
        now = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").rglob("*.*")}
        assert {path for path in times if now[path] != times[path]} == set(), name
        times = now
    assert not steps, "the selection has stopped after each"
    assert outcome(selected) == expected


def only_blocks(folder: str, names: list[str]) -> list[str]:
    """What ``copytree`` leaves out: all but the tables from which a selection begins."""
    is_top = Path(folder).name == "one"
    return [name for name in names if is_top and name not in ("videos", "clips", "rejects")]


def test_clips_of_finished_sets_come_first(items, tmp_path):
    sets = known_sets(tmp_path)
    assert sets.num_clips == 24
    _, rejects, _ = outcome(select_blocks(CFG, [items], tmp_path, sets))
    found = [row for row in rejects if row.reason == "near_duplicate"]
    first = rows_of(101).clips[1].record  # clip 5 of the first set: the one in 24 places
    everywhere = [row for row in found if row.original_clip_id == first.clip_id]
    assert len(everywhere) == 22, "clips 2 and 3 of each of 11 videos"
    for row in everywhere:
        set_0 = tmp_path / "set_0"
        assert row.original_uri == first.video_uri
        assert row.detail == f"clip {first.clip_id} of {first.video_uri} in {set_0}"
    shared = rows_of(102).clips[3].record  # clip 11 of the first set
    assert {row.video_uri for row in found if row.original_clip_id == shared.clip_id} == {
        items[number].videos[0].uri for number in (3, 4)
    }


@pytest.mark.parametrize("table", ["train-000001.signatures.parquet", "clips/part-00000.parquet"])
def test_a_damaged_table_of_a_set_names_itself_in_process_and_on_ray(
    local_ray, items, tmp_path, table
):
    sets = known_sets(tmp_path)
    (tmp_path / "set_1" / table).write_bytes(b"PAR1")
    for name, runner in (("one", InProcess()), ("ray", OnRay(NUM_VIDEOS))):
        with pytest.raises(ConfigError, match=rf"against: .*{table}.* Copy the shard set again"):
            select_blocks(CFG, divided(items, 6), tmp_path, sets, name, runner)


def test_storage_that_fails_in_a_task_is_a_storage_error(local_ray, items, tmp_path):
    (tmp_path / signatures_name(items[3].clips[0].part)).unlink()
    with pytest.raises(OSError, match="signatures"):
        select_blocks(CFG, divided(items, 6), tmp_path, None, "one")
    with pytest.raises(StorageError, match="signatures"):
        select_blocks(CFG, divided(items, 6), tmp_path, None, "ray", OnRay(NUM_VIDEOS))


def test_a_complete_selection_runs_nothing_again(items, tmp_path):
    expected = outcome(select_blocks(CFG, divided(items, 6), tmp_path))
    folder = tmp_path / "select"
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    again = Selection(
        runner=InProcess(),
        tables=Tables(str(folder)),
        work=str(tmp_path),
        blocks=range(2),
        val_fraction=CFG.val_fraction,
        drop_duplicates=True,
    )
    assert outcome(again.run()) == expected
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == times


def with_kind(item: ItemRows, num_actions: int) -> ItemRows:
    zeros = (0.0,) * num_actions
    sums = LabelSums(
        num_rows=1, total=zeros, total_squares=zeros, smallest=zeros, largest=zeros,
        buckets=(((0, 1),),) * num_actions, low=zeros, high=zeros,
    )  # fmt: skip
    return replace(item, clips=tuple(replace(clip, label_sums=sums) for clip in item.clips))


def test_an_odd_kind_of_labels_is_rejected_and_two_kinds_are_an_error(tmp_path):
    rows = [rows_of(number) for number in range(20)]
    cfg = replace(CFG, filters=FiltersConfig())
    odd = [with_kind(row, 3 if number == 7 else 2) for number, row in enumerate(rows)]
    clips, rejects, _ = outcome(select_blocks(cfg, divided(odd, 6), tmp_path, name="one"))
    assert len(clips) == 19 * 4
    found = [row for row in rejects if row.reason == "labels_mismatch"]
    assert {row.video_uri for row in found} == {rows[7].videos[0].uri} and len(found) == 4
    assert found[0].detail == "actions of 3 numbers, most clips have actions of 2 numbers"
    two = [with_kind(row, 2 + number % 2) for number, row in enumerate(rows)]
    with pytest.raises(ConfigError, match="two kinds"):
        select_blocks(cfg, divided(two, 6), tmp_path, name="two")


def test_rows_of_groups_come_together():
    runner = InProcess()
    rows = [
        pa.table({"bucket": [2, 1, 2], "value": [0, 1, 2]}),
        pa.table({"bucket": [1], "value": [3]}),
    ]
    seen = runner.grouped(rows, 2, lambda group: group)
    assert [table.to_pydict() for table in seen] == [
        {"bucket": [1, 1], "value": [1, 3]},
        {"bucket": [2, 2], "value": [0, 2]},
    ]
    assert runner.grouped([], 2, lambda group: group) == []
