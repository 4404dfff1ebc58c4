"""The files of a latent set: dtype by measurement, rows by clip."""

import hashlib

import numpy as np
import pytest

from lafp.config import ConfigError
from lafp.data.shards.format import ClipLocation
from lafp.data.stored_latents import (
    MAX_ROUNDING,
    SET_FILE,
    LatentReader,
    LatentSet,
    LatentShard,
    LatentShardWriter,
    open_latent_set,
)
from lafp.storage import strict_json


def written(folder, latents: np.ndarray) -> LatentShard:
    writer = LatentShardWriter(folder, "train-000000.tar", latents.shape[1], frame_stack=1)
    for index, rows in enumerate(np.array_split(latents, 3)):
        writer.add(f"{index:032x}", "v", rows)
    return writer.close()


@pytest.mark.parametrize(
    ("scale", "offset", "dtype"),
    [
        (1.0, 0.0, "float16"),
        (1.0, 100.0, "float32"),  # float16 keeps 100 +- 1 to 0.03 only
        (1e6, 0.0, "float32"),  # beyond float16's range
        (1e-6, 0.0, "float32"),  # below its normal numbers
    ],
)
def test_float16_is_used_where_rounding_is_small_beside_the_spread(scale, offset, dtype, tmp_path):
    latents = np.random.default_rng(0).normal(size=(300, 4)) * [1, 1, 1, scale] + offset
    latents = latents.astype(np.float32)
    entry = written(tmp_path, latents)
    assert entry.dtype == dtype and (entry.rounding <= MAX_ROUNDING) == (dtype == "float16")
    stored = np.load(tmp_path / entry.file)
    assert stored.dtype == dtype
    error = np.sqrt(np.square(stored.astype(np.float64) - latents).mean(0))
    assert (error <= MAX_ROUNDING * latents.std(0)).all()
    data = (tmp_path / entry.file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry.sha256 and len(data) == entry.num_bytes


def test_a_dimension_that_never_changes_does_not_ask_for_float32(tmp_path):
    latents = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    latents[:, 1] = 0.5
    assert written(tmp_path, latents).dtype == "float16"


def test_entries_survive_json(tmp_path):
    entry = written(tmp_path, np.ones((6, 2), np.float32))
    assert strict_json.loads(LatentShard, strict_json.dumps(entry)) == entry
    assert [clip.first_row for clip in entry.clips] == [0, 2, 4]


def test_a_missing_set_says_which_job_writes_one(tmp_path):
    with pytest.raises(ConfigError, match=r"No latent set at .*ray_jobs.label_latents"):
        open_latent_set(str(tmp_path))


def test_a_missing_entry_says_what_to_do(tmp_path):
    spec = LatentSet(
        lam_sha256="",
        shards_sha256="",
        latent_action_dim=2,
        frame_stack=1,
        num_clips=1,
        num_rejected_clips=0,
        num_pairs=1,
        num_bytes=1,
        dtypes="float32",
        rounding=0.0,
    )
    strict_json.write(str(tmp_path / SET_FILE), spec)
    location = ClipLocation(clip_id="0" * 32, num_frames=2, video_offset=0, video_bytes=0)
    with pytest.raises(ConfigError, match=r"train-000000\.json is missing\. Label again"):
        LatentReader(str(tmp_path)).read("train-000000.tar", location)
