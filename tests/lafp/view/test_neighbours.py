"""The search for frame pairs with near latent actions, against one that sorts all of them."""

import numpy as np
import pytest

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


def test_it_finds_what_sorting_all_pairs_finds(run, clip_rows, all_pairs):
    index = index_of(run, clip_rows)
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
        latent = {(clip, frame): z for _, clip, frame, z in all_pairs}
        for each in found:
            distance = np.linalg.norm(latent[each.clip_id, each.frame] - z)
            assert each.distance == pytest.approx(float(distance))
    assert index.extent == {"num_searched": len(all_pairs), "num_pairs": len(all_pairs)}


def test_of_a_larger_set_a_part_is_searched(run, clip_rows, all_pairs, monkeypatch):
    monkeypatch.setattr(neighbours, "MAX_BYTES", 10 * 2 * 4)
    index = index_of(run, clip_rows)
    found = index.nearest(np.zeros(2, np.float32), video_id="")
    assert 10 <= index.extent["num_searched"] <= 11
    latent = {(clip, frame): z for _, clip, frame, z in all_pairs}
    for each in found:
        distance = float(np.linalg.norm(latent[each.clip_id, each.frame]))
        assert each.distance == pytest.approx(distance)
