"""The search on Ray Data finds what the search in memory finds, and goes on where it was killed."""

from functools import partial

import numpy as np
import pytest
import ray

from data_pipelines.preprocess.search import find_duplicates, store_blocks
from data_pipelines.preprocess.select.catalog import Catalog
from data_pipelines.preprocess.select.duplicates import Duplicates
from tests.data_pipelines.preprocess.test_scale import rows_of, write_looks

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
    return catalog


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


def test_the_search_among_other_clips_or_in_other_blocks_is_another_one(catalog, tmp_path):
    before = store_blocks(catalog.clip_blocks(24), str(tmp_path))
    assert store_blocks(catalog.clip_blocks(24), str(tmp_path)) == before
    assert store_blocks(catalog.clip_blocks(16), str(tmp_path)) != before
    catalog.db.execute("DELETE FROM clips WHERE clip = 2")
    assert store_blocks(catalog.clip_blocks(24), str(tmp_path)) != before
