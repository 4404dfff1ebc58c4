import pytest
import torch

from lafp.models.standardizer import (
    GlobalScaleConfig,
    GlobalScaleStandardizer,
    LatentStandardizer,
    RangeConfig,
    RangeStandardizer,
)
from tests.process_group import group_of_two, run_two


def seen(batches):
    standardizer = LatentStandardizer(batches[0].shape[1])
    for batch in batches:
        standardizer.update(batch)
    return standardizer


@pytest.mark.parametrize("sizes", [[100], [1, 99], [30, 30, 40], [1] * 100])
def test_statistics_are_those_of_everything_seen_however_it_came(sizes):
    latents = 3 + 0.2 * torch.randn(100, 5)
    standardizer = seen(latents.split(sizes))
    torch.testing.assert_close(standardizer.mean.float(), latents.mean(0))
    torch.testing.assert_close(standardizer.std(), latents.std(0, correction=0))


def test_small_spread_around_a_large_offset_is_not_lost():
    latents = 1e4 + torch.randn(64, 2)
    standardizer = seen(latents.split(8))
    torch.testing.assert_close(
        standardizer.std(), latents.double().std(0, correction=0).float(), rtol=1e-4, atol=0
    )


def test_restore_inverts_standardize():
    latents = 5 + 3 * torch.randn(50, 4)
    standardizer = seen([latents])
    standardized = standardizer.standardize(latents)
    torch.testing.assert_close(standardized.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardizer.denormalize(standardized), latents)


def test_constant_dimensions_and_unseen_data_leave_finite_values():
    latents = torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    assert torch.equal(seen([latents]).standardize(latents)[:, 0], torch.zeros(2))
    assert torch.equal(LatentStandardizer(2).standardize(latents), latents)


def test_a_model_cast_to_bf16_keeps_exact_statistics():
    latents = torch.randn(1000, 3)
    standardizer = seen([latents]).bfloat16()
    standardizer.update(latents)
    assert standardizer.count.item() == 2000
    torch.testing.assert_close(standardizer.mean.float(), latents.mean(0))


def test_statistics_travel_in_the_state_dict():
    latents = 2 + torch.randn(20, 3)
    standardizer, other = seen([latents]), LatentStandardizer(3)
    other.load_state_dict(standardizer.state_dict())
    assert torch.equal(other.standardize(latents), standardizer.standardize(latents))


def update_on_rank(rank: int, rendezvous: str, latents: torch.Tensor, out: str) -> None:
    with group_of_two(rank, rendezvous):
        standardizer = LatentStandardizer(latents.shape[1])
        for batch in latents[rank * 20 : rank * 20 + 20].split(5):
            standardizer.update(batch)
        torch.save(standardizer.state_dict(), f"{out}/{rank}.pt")


def test_all_ranks_hold_the_statistics_of_all_latents(tmp_path):
    latents = 4 + torch.randn(40, 3)
    arguments = (str(tmp_path / "rendezvous"), latents, str(tmp_path))
    run_two(update_on_rank, *arguments)
    alone = seen([latents]).state_dict()
    for rank in range(2):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value)


def test_range_centres_on_the_middle_of_the_range_and_stays_fixed():
    latents = torch.tensor([[0.0, 1.0], [1.0, 1.5], [10.0, 2.0]])
    standardizer = RangeStandardizer(2, RangeConfig())
    standardizer.fit(latents)
    std = latents.std(0, correction=0)
    expected = (latents - torch.tensor([5.0, 1.5])) / std
    torch.testing.assert_close(standardizer.standardize(latents), expected)
    standardizer.update(100 * latents)
    torch.testing.assert_close(standardizer.standardize(latents), expected)
    torch.testing.assert_close(standardizer.denormalize(expected), latents)


def test_an_outlier_that_decides_where_the_centre_lies_is_told():
    latents = torch.randn(4000, 3)
    standardizer = RangeStandardizer(3, RangeConfig())
    standardizer.fit(latents)
    assert standardizer.centre_offset < 1.5
    latents[7, 1] = 1000.0
    standardizer.fit(latents)
    assert standardizer.centre_offset > 10


def test_one_global_scale_keeps_the_proportions_of_dimensions():
    latents = torch.randn(5000, 2) * torch.tensor([10.0, 0.1])
    standardizer = GlobalScaleStandardizer(2, GlobalScaleConfig())
    standardizer.update(latents)
    standardized = standardizer.standardize(latents)
    assert standardized.square().mean() == pytest.approx(1, abs=1e-3)
    assert standardized[:, 0].std() / standardized[:, 1].std() == pytest.approx(100, rel=0.05)
    torch.testing.assert_close(standardizer.denormalize(standardized), latents)
