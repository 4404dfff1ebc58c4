"""The search for frame pairs with near latent actions, against one that sorts all of them."""

import shutil

import numpy as np
import pytest

from lafp import storage
from lafp.data.shards.damage import DamagedClipError
from lafp.data.shards.sets import read_shard_entry
from lafp.data.stored_latents import LatentReader
from lafp.view import neighbours
from lafp.view.neighbours import NUM_NEIGHBOURS, LatentIndex


@pytest.fixture
def all_pairs(run, clip_rows):
    """video, clip, frame and z of every stored pair."""
    stage, reader = run.stage("shards/videos"), LatentReader(run.stage("latents/steps").uri)
    pairs = []
    for row in clip_rows:
        entry = read_shard_entry(stage.uri, row["shard"])
        place = next(clip for clip in entry.clips if clip.clip_id == row["clip_id"])
        latents = reader.read(row["shard"], place)[: row["num_frames"] - 1]
        pairs += [(row["video_id"], row["clip_id"], t, z) for t, z in enumerate(latents)]
    return pairs


def index_of(run, clip_rows) -> LatentIndex:
    shards = frozenset(row["shard"] for row in clip_rows)
    return LatentIndex(run.stage("latents/steps").uri, shards)


@pytest.mark.parametrize(
    ("kept_bytes", "chunk_bytes"), [(2**20, 2**20), (0, 40), (0, 1), (300, 100)]
)
def test_it_finds_what_sorting_all_pairs_finds(
    run, clip_rows, all_pairs, monkeypatch, kept_bytes, chunk_bytes
):
    monkeypatch.setattr(neighbours, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", chunk_bytes)
    index = index_of(run, clip_rows)
    latent = {(clip, frame): z for _, clip, frame, z in all_pairs}
    for query in (0.0, 1.3, -1.7):
        z = np.array([query, -query / 2], np.float32)
        video = clip_rows[2]["video_id"]
        best = {}
        for of_video, _, _, other in all_pairs:
            if of_video != video:
                distance = float(np.linalg.norm(other - z))
                best[of_video] = min(distance, best.get(of_video, np.inf))
        found = index.nearest(z, video)
        expected = sorted(best.values())[:NUM_NEIGHBOURS]
        assert [each.distance for each in found] == pytest.approx(expected)
        for each in found:
            distance = np.linalg.norm(latent[each.clip_id, each.frame] - z)
            assert each.distance == pytest.approx(float(distance))
    assert index.num_pairs == len(all_pairs)


def test_a_larger_set_is_read_piece_by_piece_and_an_answer_is_kept(run, clip_rows, monkeypatch):
    monkeypatch.setattr(neighbours, "KEPT_BYTES", 0)
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 40)
    sizes, read_bytes = [], storage.read_bytes

    def noted(uri, offset=0, length=None):
        data = read_bytes(uri, offset, length)
        if uri.endswith(".npy"):
            sizes.append(len(data))
        return data

    monkeypatch.setattr(storage, "read_bytes", noted)
    index = index_of(run, clip_rows)
    most = max(40, *(4 * 2 * (row["num_frames"] - 1) for row in clip_rows))
    first = index.nearest(np.zeros(2, np.float32), "")
    num_reads = len(sizes)
    assert num_reads > 2 and max(sizes) <= most
    assert index.nearest(np.zeros(2, np.float32), "") == first
    assert len(sizes) == num_reads


def test_a_file_that_is_cut_off_is_named(run, clip_rows, tmp_path):
    copy = shutil.copytree(run.stage("latents/steps").uri, tmp_path / "latents")
    shards = frozenset(row["shard"] for row in clip_rows)
    file = copy / (min(shards).removesuffix(".tar") + ".npy")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedClipError, match="ends before its latents do"):
        LatentIndex(str(copy), shards).nearest(np.zeros(2, np.float32), "")
