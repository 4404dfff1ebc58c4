import numpy as np
import pytest

from lafp.evaluate.statistics import bootstrap_interval


def test_one_seed_gives_the_normal_interval_of_the_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    interval = bootstrap_interval([values])
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.04)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.04)
    assert (interval.num_values, interval.num_seeds) == (400, 1)


def test_the_interval_covers_the_true_success_rate_about_95_times_in_100():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        interval = bootstrap_interval([rng.random(300) < 0.7], num_resamples=500, seed=trial)
        hits += interval.low <= 0.7 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_seeds_that_differ_widen_the_interval_beyond_their_episodes():
    good, bad = np.ones(300), np.zeros(300)
    interval = bootstrap_interval([good, bad])
    assert interval.mean == 0.5
    # Two seeds of two: (bad, bad) comes up in a quarter of the resamples.
    assert (interval.low, interval.high) == (0.0, 1.0)
    pooled = bootstrap_interval([np.concatenate([good, bad])])
    assert pooled.high - pooled.low < 0.1


def test_every_seed_weighs_the_same_however_many_episodes_it_has():
    assert bootstrap_interval([[1.0] * 10, [0.0] * 1000]).mean == 0.5


def test_the_same_values_give_the_same_interval():
    values = [np.arange(10.0), np.arange(5.0)]
    assert bootstrap_interval(values) == bootstrap_interval(values)


@pytest.mark.parametrize("values", [[], [[]], [[1.0], []]])
def test_a_seed_without_values_is_rejected(values):
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(values)


def test_undefined_values_are_rejected():
    with pytest.raises(ValueError, match="not finite"):
        bootstrap_interval([[0.0, float("nan")]])
