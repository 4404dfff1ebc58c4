"""A finished LAM labels clips of any length."""

import numpy as np
import pytest

from lafp.config import config_from_dict
from lafp.data.shards.format import ClipLocation, entry_name
from lafp.data.stored_latents import SET_FILE, LatentReader, LatentSet, LatentShardWriter
from lafp.finished.saved_model import save_model
from lafp.lam import load_lam
from lafp.objectives.lapo import Lapo
from lafp.storage import strict_json
from lafp.types import ObsSpec

STACK, DIM = 3, 4
CLIP = "0" * 32


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("lam"))
    raw = {
        "latent_action_dim": DIM,
        "encoder": {"name": "small_cnn", "channels": [8], "embed_dim": 16},
        "fdm": {"channels": [8, 8]},
        "bottleneck": {"name": "none"},
    }
    cfg = config_from_dict(Lapo.Config, raw)
    obs = ObsSpec(height_px=16, width_px=16, frame_stack=STACK, fps=10)
    save_model(uri, kind="lam", config=cfg, specs={"obs": obs}, module=Lapo(cfg, obs), metrics={})
    return load_lam(uri)


@pytest.mark.parametrize("num_frames", range(1, 8))
def test_a_clip_gets_a_row_per_pair_of_stacks_and_a_short_one_gets_none(lam, num_frames, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 16, 16, 3), np.uint8)
    latents = lam.label_clip(frames, batch_size=2)
    num_pairs = max(0, num_frames - STACK)
    assert (latents.shape, latents.dtype) == ((num_pairs, DIM), np.float32)
    np.testing.assert_allclose(latents, lam.label_clip(frames, batch_size=100), atol=1e-5)
    # Stored and read again, it is no damaged clip either.
    writer = LatentShardWriter(tmp_path, "train-000000.tar", DIM, STACK)
    writer.add(CLIP, "video", latents)
    strict_json.write(str(tmp_path / entry_name("train-000000.tar")), writer.close())
    spec = LatentSet(
        lam_sha256="",
        shards_sha256="",
        latent_action_dim=DIM,
        frame_stack=STACK,
        num_clips=1,
        num_rejected_clips=0,
        num_pairs=num_pairs,
        num_bytes=1,
        dtypes="float32",
        rounding=0.0,
    )
    strict_json.write(str(tmp_path / SET_FILE), spec)
    location = ClipLocation(clip_id=CLIP, num_frames=num_frames, video_offset=0, video_bytes=0)
    stored = LatentReader(str(tmp_path)).read("train-000000.tar", location)
    assert stored.shape == (num_frames, DIM)
    np.testing.assert_allclose(stored[STACK - 1 :][:num_pairs], latents, atol=1e-2)
