"""The typical change of training pairs, and what a network sees in its units."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lafp.models.change_scale import ChangeScale
from lafp.models.moments import Moments


def fitted(*batches) -> ChangeScale:
    scale, moments = ChangeScale(), Moments()
    for batch in batches:
        moments.add(scale.log_rms(batch))
    scale.fit(moments)
    return scale


def changes(num: int, rms: float, seed: int = 0) -> torch.Tensor:
    values = torch.randn(num, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return rms * values / values.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)


@given(rms=st.floats(0.002, 1.0))
def test_pairs_that_change_as_is_typical_have_unit_size(rms):
    scale = fitted(changes(8, rms))
    assert float(scale.typical) == pytest.approx(rms, rel=1e-4)
    seen = scale.compressed(changes(4, rms, seed=1))
    torch.testing.assert_close(seen.square().mean().sqrt(), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_neither_a_cut_nor_still_pairs_rule_it():
    usual = changes(30, 0.01)
    with_others = fitted(usual, changes(1, 1.0), torch.zeros(30, 3, 8, 8))
    assert float(with_others.typical) < 1.2 * float(fitted(usual).typical)


@given(order=st.permutations(range(6)), sizes=st.sampled_from([(6,), (3, 3), (1, 2, 3)]))
def test_it_does_not_depend_on_how_pairs_are_dealt_to_batches(order, sizes):
    pairs = torch.cat([changes(1, 0.002 * (n + 1), n) for n in range(6)])
    batches = pairs[list(order)].split(list(sizes))
    torch.testing.assert_close(fitted(*batches).typical, fitted(pairs).typical, rtol=1e-6, atol=0)


def test_a_large_change_counts_by_its_root_and_others_as_they_are():
    scale = fitted(changes(8, 0.01))
    for factor, seen_rms in ((0.1, 0.1), (1.0, 1.0), (4.0, 4.0), (64.0, 16.0)):
        seen = scale.compressed(changes(1, 0.01 * factor, seed=2))
        assert float(seen.square().mean().sqrt()) == pytest.approx(seen_rms, rel=1e-3)


def test_where_nothing_moves_the_unit_is_that_of_pixels():
    scale = fitted(torch.zeros(8, 3, 8, 8))
    assert scale.typical == 1
    assert torch.equal(scale.compressed(torch.zeros(2, 3, 8, 8)), torch.zeros(2, 3, 8, 8))


def test_units_and_pixels_are_inverse_and_the_number_keeps_its_precision():
    scale = fitted(changes(8, 0.0123)).to(torch.bfloat16)
    assert scale.typical.dtype == torch.float32
    assert list(scale.state_dict()) == ["typical"]
    change = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(scale.to_pixels(scale.to_units(change)), change)
