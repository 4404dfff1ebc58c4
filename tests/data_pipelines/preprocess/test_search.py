"""The search on Ray Data finds what the search in memory finds, and goes on where it was killed."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray

from data_pipelines.preprocess.search import find_duplicates, store_blocks
from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.select.duplicates import Duplicates
from data_pipelines.preprocess.select.finished_sets import FinishedSets
from lafp.config import ConfigError
from tests.data_pipelines.preprocess.test_scale import rows_of, write_known_set, write_looks

NUM_VIDEOS = 12
find_on_ray = partial(find_duplicates, most_in_memory=0, block_clips=24)


@pytest.fixture(scope="module")
def local_ray():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def catalog(tmp_path) -> Catalog:
    """Videos of which every third shares a clip with the next, and one clip is in 24 places."""
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
    catalog = Catalog(tmp_path)
    catalog.add(rows)
    write_known_sets(looks, rows, tmp_path)
    return catalog


def write_known_sets(looks, rows, folder: Path) -> None:
    """Two sets: the first knows the clip in 24 places, both know clip 0 of video 3."""
    knows = {0: {5: (1, 2), 11: (3, 0)}, 1: {2: (3, 0), 4: (3, 0), 9: (6, 0)}}
    for number, places in knows.items():
        items = [rows_of(100 + 10 * number + i) for i in range(3)]
        clips = [clip.record.clip_id for item in items for clip in item.clips]
        of_set = {
            clips[place]: looks[rows[video].clips[clip].record.clip_id]
            for place, (video, clip) in places.items()
        }
        write_known_set(items, folder / f"set_{number}", of_set, clips_per_shard=5)


def known_sets(folder: Path) -> FinishedSets:
    return FinishedSets([str(folder / f"set_{number}") for number in range(2)])


def found(duplicates: Duplicates) -> tuple[dict[int, int], set[tuple[int, ...]]]:
    originals = [row for batch in duplicates.originals for row in batch.to_pylist()]
    links = [row for batch in duplicates.links for row in batch.to_pylist()]
    return (
        {row["clip"]: row["original"] for row in originals},
        {tuple(sorted(row.values())) for row in links},
    )


def test_blocks_on_ray_data_give_what_one_block_gives(local_ray, catalog, tmp_path):
    originals, links = expected = found(find_duplicates(catalog, str(tmp_path)))
    copies = {4 * number + 5: 4 * number for number in range(0, NUM_VIDEOS, 3)}
    everywhere = {4 * number + clip: 2 for number in range(NUM_VIDEOS) for clip in (2, 3)}
    del everywhere[2]  # the first is kept
    assert originals == copies | everywhere
    assert {(0, 1), (0, NUM_VIDEOS - 1)} <= links
    assert found(find_on_ray(catalog, str(tmp_path))) == expected
    (folder,) = (tmp_path / "search").glob("*/pairs")
    steps = ("originals", "links")
    for name in steps:
        (folder.parent / f"{name}.json").unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.parent.glob("*/*.parquet")}
    assert found(find_on_ray(catalog, str(tmp_path))) == expected
    again = {path.parent.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert again <= set(steps) and "links" in again, "it goes on after its last complete step"


def test_clips_of_finished_sets_come_first_in_one_block_or_in_blocks(local_ray, catalog, tmp_path):
    sets = known_sets(tmp_path)
    assert sets.num_clips == 24
    in_memory = find_duplicates(catalog, str(tmp_path), sets=sets)
    known = [row for batch in in_memory.known for row in batch.to_pylist()]
    originals, links = expected = found(in_memory)
    alone, _ = found(find_duplicates(catalog, str(tmp_path)))
    assert {clip: alone[clip] for clip in originals if originals[clip] >= 0} == {5: 0, 41: 36}
    # Clips 2 and 3 of each video, the two places of video 3's clip 0, and those of video 6's.
    everywhere = {4 * number + clip: 5 - 24 for number in range(NUM_VIDEOS) for clip in (2, 3)}
    assert originals == {5: 0, 41: 36, 12: -13, 17: -13, 24: 9 - 12, 29: 9 - 12} | everywhere
    assert {row["clip"] for row in known} >= {-19, -13, -3} and all(
        row["clip"] < 0 for row in known
    )
    by_clip = {row["clip"]: row for row in known}
    for place, number in ((-19, 0), (-3, 1)):
        item = rows_of(100 + 10 * number + (place + 24 - 12 * number) // 4)
        record = item.clips[(place + 24) % 4].record
        assert by_clip[place] == {
            "clip": place,
            "clip_id": record.clip_id,
            "episode_id": record.episode_id,
            "video_uri": record.video_uri,
            "shard_set": str(tmp_path / f"set_{number}"),
            "split": "train",
        }
    # Blocks of 16 clips begin and end within shards of 5.
    on_ray = find_on_ray(catalog, str(tmp_path), sets=sets, block_clips=16)
    rows = [row for batch in on_ray.known for row in batch.to_pylist()]
    assert (found(on_ray), rows) == (expected, known)
    assert links >= {(-19, 0), (-19, 11)}


def test_a_damaged_table_of_a_set_is_one_line_in_memory_and_on_ray(local_ray, catalog, tmp_path):
    sets = known_sets(tmp_path)
    (tmp_path / "set_1/train-000001.signatures.parquet").write_bytes(b"PAR1")
    for find in (find_duplicates, find_on_ray):
        with pytest.raises(
            ConfigError, match=r"against: .*train-000001.* Copy the shard set again"
        ):
            find(catalog, str(tmp_path), sets=sets)


def test_the_search_among_other_clips_or_in_other_blocks_is_another_one(catalog, tmp_path):
    before = store_blocks(catalog.clip_blocks(24), str(tmp_path))
    assert store_blocks(catalog.clip_blocks(24), str(tmp_path)) == before
    assert store_blocks(catalog.clip_blocks(16), str(tmp_path)) != before
    against = store_blocks(catalog.clip_blocks(24), str(tmp_path), known_sets(tmp_path), 24)
    one = FinishedSets([str(tmp_path / "set_0")])
    assert len({before, against, store_blocks(catalog.clip_blocks(24), str(tmp_path), one)}) == 3
    catalog.db.execute("DELETE FROM clips WHERE clip = 2")
    assert store_blocks(catalog.clip_blocks(24), str(tmp_path)) != before
