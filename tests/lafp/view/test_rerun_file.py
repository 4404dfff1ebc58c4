"""A clip as a recording of Rerun, read back with Rerun's own reader."""

import io
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Labels
from lafp.data.stored_latents import LatentReader
from lafp.video import decode_clip
from lafp.view.rerun_file import write_recording
from lafp.view.stored_clips import StoredClips
from lafp.view.viewed_sets import open_sets

pytest.importorskip("rerun", reason="the extra rerun is missing")
pytestmark = pytest.mark.slow  # where the extra is installed, which is large

ROOT = Path(__file__).parents[3]


def read_back(path) -> dict[str, list]:
    """Entity -> its values, by frame."""
    from rerun.chunk import RrdReader

    found: dict[str, dict[int, object]] = {}
    for chunk in RrdReader(path).store().stream().to_chunks():
        batch = chunk.to_record_batch()
        names = batch.schema.names
        value = next((n for n in names if n.endswith((":blob", ":scalars"))), None)
        if value and "frame" in names:
            rows = zip(batch["frame"].to_pylist(), batch[value].to_pylist(), strict=True)
            found.setdefault(str(chunk.entity_path), {}).update(rows)
    return {name: [rows[t] for t in sorted(rows)] for name, rows in found.items()}


def test_frames_actions_and_latents_come_back(run, clip_rows, tmp_path):
    row = clip_rows[2]
    out = tmp_path / "clip.rrd"
    with ExitStack() as stack:
        sets = open_sets(run.uri, stack)
        said = write_recording(sets, row["clip_id"], str(out))
        place = StoredClips(sets[0]).location(row["shard"], row["clip_id"])
    assert said.startswith(f"{row['clip_id']} of videos: {row['num_frames']} frames, ")
    found = read_back(out)
    shard = f"{run.uri}/shards/videos/{row['shard']}"
    frames = decode_clip(storage.read_bytes(shard, place.video_offset, place.video_bytes))
    pictures = [np.asarray(Image.open(io.BytesIO(bytes(b[0])))) for b in found["/video"]]
    assert np.abs(np.stack(pictures).astype(int) - frames).mean() < 6  # JPEG
    labels = Labels.from_bytes(storage.read_bytes(shard, place.labels_offset, place.labels_bytes))
    wanted = {name: array for name, array in vars(labels).items() if array is not None}
    (action,) = (name for name in wanted if "action" in name and wanted[name].ndim == 2)
    stored = np.array(wanted[action])
    known = np.isfinite(stored).all(1)
    np.testing.assert_allclose(np.array(found[f"/{action}"]), stored[known], rtol=1e-6)
    latents = LatentReader(run.stage("latents/steps").uri).read(row["shard"], place)
    np.testing.assert_allclose(found["/latents/steps"], latents[: len(frames) - 1], rtol=1e-6)


def test_a_clip_that_is_not_there_is_one_line(run, tmp_path):
    with ExitStack() as stack, pytest.raises(ConfigError, match="There is no clip nothing in vid"):
        write_recording(open_sets(run.uri, stack), "nothing", str(tmp_path / "x.rrd"))


def test_the_command_writes_the_first_clip(run, clip_rows, tmp_path):
    out = tmp_path / "first.rrd"
    command = [sys.executable, "-m", "ray_jobs.view", run.uri, "--rrd", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(clip_rows[0]["clip_id"])
    assert done.stdout.endswith(f"recording: {out}\n") and out.read_bytes()[:3] == b"RRF"
