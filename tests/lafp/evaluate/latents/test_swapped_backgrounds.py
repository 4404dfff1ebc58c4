"""Shares of background and action, on features whose shares are known."""

import io
import math

import numpy as np
import pytest
import torch

from data_pipelines.collect import Batch, CollectConfig, render_batch
from lafp.config import ConfigError
from lafp.data.labels import labeled_episodes
from lafp.envs.slalom import SlalomConfig
from lafp.evaluate.latents.config import EvaluateLamConfig
from lafp.evaluate.latents.measurements import measure_representation
from lafp.evaluate.latents.representations import PIXEL_DIFFERENCE
from lafp.evaluate.latents.swapped_backgrounds import (
    background_use,
    check_swapped,
    measure_background_use,
    swapped_pairs,
)
from tests.synthetic_shards import SyntheticClip, moving_dot, write_clips

NUM_EPISODES, NUM_PER_EPISODE = 40, 100
CPU = torch.device("cpu")


def draws(*dims: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    num = NUM_EPISODES * NUM_PER_EPISODE
    return [torch.randn(num, dim, generator=generator) for dim in dims]


EPISODE = torch.arange(NUM_EPISODES).repeat_interleave(NUM_PER_EPISODE)


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_the_variance_is_split_between_background_and_action(strength):
    action, own, swapped = draws(2, 2, 2)
    mix = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    found = background_use(
        torch.cat([action @ mix, strength * own], dim=1),
        torch.cat([action @ mix, strength * swapped], dim=1),
        action,
        EPISODE,
    )
    of_background, of_action = strength**2 / (1 + strength**2), 1 / (1 + strength**2)
    assert found.background_share.mean == pytest.approx(of_background, abs=0.02)
    assert found.action_share.mean == pytest.approx(of_action, abs=0.02)
    for interval, truth in (
        (found.background_share, of_background),
        (found.action_share, of_action),
    ):
        assert interval.low - 1e-6 <= truth <= interval.high + 1e-6


def test_variance_that_is_neither_of_the_background_nor_linear_in_the_action_is_left_over():
    action, scene, own, swapped = draws(1, 1, 1, 1)
    found = background_use(
        torch.cat([action, scene, own], dim=1),
        torch.cat([action, scene, swapped], dim=1),
        action,
        EPISODE,
    )
    assert found.background_share.mean == pytest.approx(1 / 3, abs=0.02)
    assert found.action_share.mean == pytest.approx(1 / 3, abs=0.02)


def test_a_shift_that_all_pairs_share_counts_for_the_background():
    (action,) = draws(2)
    found = background_use(action, action + 2.0, action, EPISODE)
    assert found.background_share.mean == pytest.approx(2 / 3, abs=0.02)
    assert found.action_share.mean == pytest.approx(1 / 3, abs=0.02)


def test_features_that_never_change_have_no_shares():
    (action,) = draws(1)
    found = background_use(torch.ones(len(action), 3), torch.ones(len(action), 3), action, EPISODE)
    assert math.isnan(found.background_share.mean) and math.isnan(found.action_share.mean)


def write_set(folder, seed: int, dots: int = 0, num_clips: int = 10, size_px: int = 16) -> str:
    """Writes episodes of moving dots; ``seed`` decides the brightness behind each of them."""
    rng, clips = np.random.default_rng(seed), []
    for index in range(num_clips):
        frames, steps = moving_dot(12, dots + index, size_px)
        frames = np.where(frames == 20, np.uint8(rng.integers(0, 120)), frames)
        split = "val" if index < 6 else "train"
        clips.append(SyntheticClip(frames=frames, true_action=steps, split=split))
    return write_clips(folder, clips, clips_per_shard=4, seed=seed, max_action=2.0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("sets")
    return write_set(folder / "own", seed=1), write_set(folder / "swapped", seed=2)


def test_clips_of_two_sets_are_paired_and_measured_at_the_same_times(sets):
    held_out = labeled_episodes(sets[0], "val")
    pairs, num_alone = swapped_pairs(*sets, held_out)
    assert (len(pairs), num_alone) == (6, 0)
    acting = measure_background_use(lambda window: window.true_action, pairs, 1, CPU)
    assert acting.background_share.mean == pytest.approx(0, abs=1e-9)
    assert acting.action_share.mean == pytest.approx(1, abs=1e-6)
    assert acting.background_share.num_values == 6 * 11
    behind = measure_background_use(
        lambda window: window.obs.flatten(1).median(1, keepdim=True).values, pairs, 1, CPU
    )
    # Six levels of brightness, and six others: all of the variance, but for chance.
    assert behind.background_share.mean > 0.5 and behind.action_share.mean < 0.1


def test_the_job_s_measurement_has_both_shares_of_each_method(sets):
    cfg = EvaluateLamConfig(encoder="unused", swapped_shards=sets[1])
    rows = measure_representation(None, sets[0], frozenset(), PIXEL_DIFFERENCE, cfg)["rows"]
    value = {row["metric"]: row for row in rows}
    assert 0 < value["background_share"]["low"] <= value["background_share"]["value"] < 1
    assert value["action_share"]["method"] == PIXEL_DIFFERENCE


def test_episodes_without_a_pair_are_counted(sets, tmp_path):
    fewer = write_set(tmp_path / "fewer", seed=2, num_clips=4)
    found = check_swapped(sets[0], fewer, labeled_episodes(sets[0], "val"))
    assert found == "4 held-out clips paired, 2 without a pair"


def test_sets_that_are_not_the_same_episodes_are_refused(sets, tmp_path):
    own, held_out = sets[0], labeled_episodes(sets[0], "val")

    def message(swapped: str) -> str:
        with pytest.raises(ConfigError, match="swapped_shards: ") as error:
            check_swapped(own, swapped, held_out)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "is the same video" in message(own)
    assert "has other actions" in message(write_set(tmp_path / "other", seed=2, dots=50))
    assert "only 1 of the 6 held-out" in message(write_set(tmp_path / "one", seed=2, num_clips=1))
    assert "has height_px 32" in message(write_set(tmp_path / "large", seed=2, size_px=32))


def test_collect_renders_the_same_episodes_before_another_background(tmp_path):
    def rendered(name: str, distractors: bool) -> tuple[list[dict], list[bytes]]:
        cfg = CollectConfig(env=SlalomConfig(distractors=distractors), num_labeled_val_episodes=2)
        folder = tmp_path / name
        render_batch(cfg, Batch(subset="labeled_val", first=0, last=2), str(folder))
        stems = [folder / f"labeled_val/episode_{n:06d}" for n in range(2)]
        labels = [dict(np.load(io.BytesIO(s.with_suffix(".npz").read_bytes()))) for s in stems]
        return labels, [stem.with_suffix(".mp4").read_bytes() for stem in stems]

    (plain, plain_videos), (moving, moving_videos) = rendered("a", False), rendered("b", True)
    for ours, theirs in zip(plain, moving, strict=True):
        for key in ("action", "action_noise", "state"):
            np.testing.assert_array_equal(ours[key], theirs[key])
    assert all(a != b for a, b in zip(plain_videos, moving_videos, strict=True))
