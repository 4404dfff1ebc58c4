"""The tables of a shard set are those of its clips alone."""

from pathlib import Path

import pyarrow.parquet as pq

from data_pipelines.preprocess.config import ClipConfig, PreprocessConfig, ResizeConfig
from lafp.data.shards.sets import open_shard_set
from tests.made_shard_set import make_shard_set
from tests.shard_tables import table_file
from tests.synthetic_video import moving_square, write_video

CFG = PreprocessConfig(clip=ClipConfig(fps=10.0), resize=ResizeConfig(width_px=48, height_px=32))


def test_files_of_clips_that_a_killed_run_has_left_are_deleted(tmp_path):
    """A takedown before the run goes on can make the table shorter."""
    source, shards = tmp_path / "source", tmp_path / "set"
    source.mkdir()
    write_video(source / "a.mp4", moving_square(60))
    left = shards / "clips/part-00001.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"rows of an earlier run")
    summary = make_shard_set(CFG, source, shards)
    assert [path.name for path in Path(shards, "clips").iterdir()] == ["part-00000.parquet"]
    assert pq.read_metadata(shards / table_file("clips")).num_rows == summary["num_clips"] > 0
    assert open_shard_set(str(shards)).num_clip_files == 1
