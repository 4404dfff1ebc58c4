import math

import numpy as np
import pytest

from lafp.evaluate.acting.modes import mode_coverage, mode_entropy

EVEN = np.array([[a, b] for a in (0, 1) for b in (0, 1)] * 25)


def test_four_even_paths_have_two_bits():
    entropy = mode_entropy(EVEN, (2, 2))
    assert (entropy.per_fork, entropy.joint, entropy.num_decided) == (1.0, 2.0, 100)


def test_repeating_the_same_side_keeps_the_sides_but_half_the_paths():
    same_side = np.repeat([[0, 0], [1, 1]], 50, axis=0)
    coverage = mode_coverage(same_side, EVEN, (2, 2))
    assert (coverage.side_entropy, coverage.mode_coverage) == (1.0, 0.5)


def test_one_path_covers_nothing():
    coverage = mode_coverage(np.zeros((50, 2), int), EVEN, (2, 2))
    assert (coverage.side_entropy, coverage.mode_coverage) == (0.0, 0.0)


def test_entropy_of_an_uneven_fork_is_the_closed_form():
    ways = np.array([[0]] * 9 + [[2]] * 3)
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert mode_entropy(ways, (3,)).joint == pytest.approx(expected)


def test_undecided_episodes_count_only_where_they_decided():
    modes = np.array([[0, -1], [1, -1], [0, 0], [1, 0]])
    entropy = mode_entropy(modes, (2, 2))
    assert entropy.per_fork == pytest.approx((1.0 + 0.0) / 2)
    assert (entropy.joint, entropy.num_decided) == (1.0, 2)


def test_a_policy_that_never_passes_a_fork_has_no_coverage_to_report():
    coverage = mode_coverage(np.full((10, 2), -1), EVEN, (2, 2))
    assert math.isnan(coverage.mode_coverage) and coverage.num_decided == 0


def test_the_bias_is_the_documented_one():
    rng = np.random.default_rng(0)
    n = 20
    entropies = [mode_entropy(rng.integers(2, size=(n, 2)), (2, 2)).joint for _ in range(4000)]
    assert 2 - np.mean(entropies) == pytest.approx(3 / (2 * n * math.log(2)), rel=0.15)


def test_where_demonstrators_take_one_way_there_is_nothing_to_cover():
    coverage = mode_coverage(EVEN, np.zeros((10, 2), int), (2, 2))
    assert math.isnan(coverage.mode_coverage) and math.isnan(coverage.side_entropy)
