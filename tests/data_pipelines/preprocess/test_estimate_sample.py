"""Totals of a heavy-tailed listing, from a few of its inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.preprocess.estimate_sample import draw, weight_of
from data_pipelines.preprocess.rows import VideoItem


def listing(rng: np.random.Generator, num: int) -> tuple[list[VideoItem], dict[str, float]]:
    """Sizes over four decades; work per byte over more than one, as codecs have it."""
    sizes = np.exp(rng.normal(13.5, 2.0, num)).astype(int) + 1
    per_byte = np.exp(rng.normal(0.0, 0.8, num))
    items = [
        VideoItem(uri=f"{rng.integers(2**60)}.mp4", num_bytes=int(size), split=None)
        for size in sizes
    ]
    costs = {
        item.uri: 0.2 * weight_of(item) + factor * item.num_bytes
        for item, factor in zip(items, per_byte, strict=True)
    }
    return items, costs


def test_mixed_sources_are_estimated_within_a_factor_of_one_and_a_half():
    ratios, is_covered = [], []
    for seed in range(200):
        items, costs = listing(np.random.default_rng(seed), 300)
        sample = draw(items, 24)
        found = sample.estimate([costs[item.uri] for item in sample.items])
        truth = sum(costs.values())
        ratios.append(found.mean / truth)
        is_covered.append(found.low <= truth <= found.high)
    ratios = np.array(ratios)
    assert np.mean((ratios > 1 / 1.5) & (ratios < 1.5)) > 0.95
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)
    assert np.mean(is_covered) > 0.85  # the interval that is said tells how far off it may be


def test_what_was_looked_at_as_a_whole_is_exact():
    items, costs = listing(np.random.default_rng(0), 30)
    sample = draw(items, 100)
    found = sample.estimate([costs[item.uri] for item in sample.items])
    assert found.mean == pytest.approx(sum(costs.values()))
    assert found.factor == 1.0


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=40), st.integers(1, 12))
def test_a_sample_is_the_same_in_any_order_and_knows_the_whole_listing(sizes, most):
    items = [VideoItem(uri=f"{n}.mp4", num_bytes=s, split=None) for n, s in enumerate(sizes)]
    sample, again = draw(items, most), draw(reversed(items), most)
    assert {item.uri for item in sample.items} == {item.uri for item in again.items}
    assert (sample.num_inputs, sample.num_bytes) == (len(sizes), sum(sizes))
    assert len(sample.items) == min(most, len(sizes))
    # What is proportional to the weights is known without error.
    found = sample.estimate([weight_of(item) for item in sample.items])
    assert found.mean == pytest.approx(sum(map(weight_of, items)))


def test_nothing_found_has_no_interval():
    items, _ = listing(np.random.default_rng(1), 50)
    assert draw(items, 8).estimate([0.0] * 8).factor == 1.0
