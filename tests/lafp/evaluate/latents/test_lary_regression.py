"""LARY's regression on features whose error is known."""

import pyarrow.parquet as pq
import pytest
import torch

from lafp.evaluate.latents.lary_regression import LaryPairs, lary_mse, lary_pairs
from lafp.evaluate.probes.lam_probe import transitions_of_probe
from tests.synthetic_shards import write_shard_set

CPU, STRIDE = torch.device("cpu"), 2


pytestmark = pytest.mark.usefixtures("one_thread")


def pairs(num: int, seed: int, knows_first_step: bool) -> LaryPairs:
    """Features that tell the first of two steps of two dimensions exactly, or nothing."""
    generator = torch.Generator().manual_seed(seed)
    actions = 3 + torch.randn(num, 2 * STRIDE, generator=generator) * torch.tensor([5.0, 0.1] * 2)
    told = actions[:, :2] if knows_first_step else torch.randn(num, 2, generator=generator)
    mix = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    standardized = (told - told.mean(0)) / told.std(0)
    # The network begins with a LayerNorm, which only keeps scales beside something constant.
    constant = torch.linspace(-6, 6, 24).repeat(num, 1)
    return LaryPairs(
        features=torch.cat([standardized @ mix, constant], dim=1),
        actions=actions,
        episode=torch.arange(num) // 25,
    )


@pytest.mark.parametrize(("knows_first_step", "expected"), [(True, 0.5), (False, 1.0)])
def test_the_error_is_that_of_the_steps_that_the_features_do_not_tell(knows_first_step, expected):
    fit, held_out = pairs(2000, 1, knows_first_step), pairs(500, 2, knows_first_step)
    found = lary_mse(fit, held_out, STRIDE, CPU, hidden_dim=256, num_epochs=12)
    assert found.mean == pytest.approx(expected, abs=0.1)
    assert found.low < found.mean < found.high and found.num_values == 500


def test_pairs_follow_each_other_without_overlap_and_carry_all_actions_between(tmp_path):
    shards = write_shard_set(
        tmp_path, num_clips=8, num_val_clips=3, frames=(7, 11), has_labels=True
    )
    splits = transitions_of_probe(shards, frozenset(), None)
    seen = 0
    for window, actions, episode_N in splits[0].pairs(1, 3, CPU):
        assert actions.shape == (len(window), 3, 2) and (window.offset_steps == 3).all()
        torch.testing.assert_close(actions[:, 0], window.true_action)
        follows = episode_N[1:] == episode_N[:-1]
        torch.testing.assert_close(window.next_obs[:-1][follows], window.obs[1:][follows])
        seen += len(window)
    rows = pq.read_table(f"{shards}/clips").to_pylist()
    assert seen == sum((row["num_frames"] - 1) // 3 for row in rows if row["split"] == "train")
    found = lary_pairs(lambda window: window.true_action, splits[1], 1, 3, CPU)
    assert found.actions.shape[1] == 6
    torch.testing.assert_close(found.features, found.actions[:, :2])
