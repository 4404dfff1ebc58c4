"""docs/shards.md: its example for webdataset reads our shards. Ray's is in test_label_latents."""

import numpy as np

from lafp.data.shards.sets import read_shard_entry
from tests.doc_examples import run_example
from tests.synthetic_shards import moving_dot, write_shard_set


def test_webdataset_reads_our_shards_as_documented(tmp_path, capsys):
    shards = write_shard_set(tmp_path, num_clips=5, clips_per_shard=3, has_labels=True)
    names = run_example("shards.md", "webdataset", {"shards/labeled": shards})
    entries = [read_shard_entry(shards, f"train-{number:06d}.tar") for number in range(2)]
    clips = [clip for entry in entries for clip in entry.clips]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{clip.clip_id} 10.0 ({clip.num_frames}, 16, 16, 3) ({clip.num_frames}, 2)"
        for clip in clips
    ]
    frames, steps = moving_dot(clips[-1].num_frames, seed=4)
    assert np.array_equal(names["actions"], steps)
    assert np.abs(names["frames"].astype(int) - frames).mean() < 8
    assert names["record"]["clip_id"] == clips[-1].clip_id
