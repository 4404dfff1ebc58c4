"""A run with real shards, rejects whose source is there, and latents; and a server of it."""

from contextlib import ExitStack
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.preprocess.rejects import RejectRow
from lafp.runs.run_dir import RunDir
from lafp.storage.tables import write_rows
from lafp.view.answers import Answers
from lafp.view.server import ViewServer
from lafp.view.viewed_sets import open_sets
from tests.http_server import running
from tests.synthetic_latents import write_latents
from tests.synthetic_shards import write_shard_set
from tests.synthetic_video import moving_square, write_video

EVIL = "<script>&<img src=x onerror=document.title='evil'>.mp4"
NUM_CLIPS = 12


def step_of(obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """The step of the dot, which wraps round the edges of 16 pixels."""
    at = [
        np.array(np.unravel_index(f.sum(-1, dtype=int).argmax(), (16, 16))) for f in (obs, next_obs)
    ]
    return (at[1] - at[0] + 8) % 16 - 8


def write_run(folder) -> RunDir:
    run = RunDir(str(folder / "run"))
    stage = run.stage("shards/videos")
    stage.begin({}, {})
    write_shard_set(
        folder / "run/shards/videos", num_clips=NUM_CLIPS, num_val_clips=4, has_labels=True
    )
    rows = pq.read_table(stage.path("clips/part-00000.parquet")).to_pylist()
    for number, row in enumerate(rows):
        row["video_uri"] = f"videos/{EVIL if number == 3 else f'clip_{number}.mp4'}"
        row["motion"] = 0.01 * (number + 1)
        row["pair_motion"] = [100 + 10 * number + t for t in range(row["num_frames"] - 1)]
    pq.write_table(
        pa.Table.from_pylist(rows), stage.path("clips/part-00000.parquet"), row_group_size=5
    )
    source = write_video(folder / "source.mp4", moving_square(40))
    kept = rows[3]["clip_id"]
    rejects = [
        (str(source), 0.0, 2.0, "static", "median motion 0.0012"),
        (str(source), 2.0, 4.0, "near_duplicate", f"clip {kept} of videos/{EVIL}", kept),
        (str(folder / "gone.mp4"), 0.0, 2.0, "dark", ""),
        ("videos/" + EVIL, 0.0, 0.0, "not_a_video", "moov atom <b>not</b> found"),
    ]
    names = [field.name for field in fields(RejectRow)]
    made = [RejectRow(**dict(zip(names, row, strict=False))) for row in rejects]
    write_rows(stage.path("rejects.parquet"), RejectRow, made)
    stage.finish({})
    write_latents(run, "videos", "steps", step_of)
    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="session")
def clip_rows(run):
    return pq.read_table(run.stage("shards/videos").path("clips/part-00000.parquet")).to_pylist()


@pytest.fixture(scope="session")
def served(run):
    """``url``, and the ``answers`` behind it."""
    with ExitStack() as stack:
        answers = Answers(open_sets(run.uri, stack), run.name, {"dark": "darker than <b>"})
        server = ViewServer(answers)
        stack.enter_context(running(server))
        yield SimpleNamespace(url=server.url, answers=answers)
