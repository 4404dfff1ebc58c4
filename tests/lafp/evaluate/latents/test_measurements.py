"""The measurements of a frozen encoder, on actions that are known functions of its features."""

from pathlib import Path

import pytest
import torch

from lafp.config import ConfigError, config_from_dict
from lafp.data.windows import pixels_to_float
from lafp.evaluate.latents.config import EvaluateLamConfig
from lafp.evaluate.latents.measurements import joined_rows, measure_representation
from lafp.evaluate.latents.representations import ENCODER_FRAME, ENCODER_PAIR, methods
from lafp.models.dinov2 import Dinov2, Dinov2Config
from lafp.types import ObsSpec
from tests.synthetic_dinov2 import write_dinov2
from tests.synthetic_shards import SyntheticClip, moving_dot, write_clips

NUM_CLIPS, NUM_HELD_OUT, NUM_FRAMES = 36, 8, 24
NOISE_VARIANCE = 0.25
"""Beside a signal of variance 1, so that nothing can reach more than an R2 of 0.8."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return str(write_dinov2(tmp_path_factory.mktemp("dinov2")))


@pytest.fixture(scope="module")
def shards(tmp_path_factory, weights) -> str:
    """Actions are the largest principal component of the features' differences, and noise."""
    frames = [moving_dot(NUM_FRAMES, seed, size_px=16)[0] for seed in range(NUM_CLIPS)]
    obs = ObsSpec(height_px=16, width_px=16, frame_stack=1, fps=10)
    encoder = Dinov2(Dinov2Config(path=weights), obs).eval()
    with torch.no_grad():
        features = [
            encoder.frame_features(pixels_to_float(torch.from_numpy(clip).permute(0, 3, 1, 2)))
            for clip in frames
        ]
    differences = torch.stack([of_clip.diff(dim=0) for of_clip in features]).flatten(0, 1)
    signal = (differences - differences.mean(0)) @ torch.pca_lowrank(differences, q=4)[2][:, 0]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(signal), generator=generator) * NOISE_VARIANCE**0.5
    actions = (signal / signal.std() + noise).view(NUM_CLIPS, NUM_FRAMES - 1, 1)
    actions = torch.cat([actions, torch.zeros(NUM_CLIPS, 1, 1)], dim=1).numpy()
    clips = [
        SyntheticClip(
            frames=clip,
            true_action=action,
            split="train" if index < NUM_CLIPS - NUM_HELD_OUT else "val",
        )
        for index, (clip, action) in enumerate(zip(frames, actions, strict=True))
    ]
    folder = tmp_path_factory.mktemp("shards")
    return write_clips(Path(folder), clips, clips_per_shard=8, seed=0, max_action=8.0)


def test_the_probes_of_an_encoder_find_what_its_two_frames_tell_and_no_more(weights, shards):
    cfg = EvaluateLamConfig(encoder=weights, shards=shards)
    rows = joined_rows(
        {
            name: measure_representation(None, shards, frozenset(), name, cfg)
            for name in methods(None, weights)
        }
    )
    r2 = {row["method"]: row for row in rows if row["metric"] == "probe_r2"}
    for method in methods(None, weights)[:2]:
        assert 0.68 < r2[method]["value"] < 0.85
        assert r2[method]["low"] < 0.8 < r2[method]["high"] + 0.1
    # The dot walks at random, so its first frame hardly tells where it goes.
    assert r2[ENCODER_FRAME]["value"] < 0.55
    gain = next(row for row in rows if row["metric"] == f"probe_gain_over_{ENCODER_FRAME}")
    assert gain["method"] == ENCODER_PAIR and gain["low"] > 0


def test_a_config_says_whether_a_lam_or_an_encoder_is_measured(weights):
    for other in ("lam", "dinov2"):
        with pytest.raises(ConfigError, match=f"Set {other} or encoder, not both"):
            config_from_dict(EvaluateLamConfig, {"encoder": weights, other: "somewhere"})
