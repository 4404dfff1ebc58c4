import numpy as np
import pytest

from lafp.evaluate.rows.statistics import (
    interquartile_mean,
    interval_of_mean,
    probability_of_improvement,
)


def test_one_seed_gives_the_normal_interval_of_the_mean():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    interval = interval_of_mean([values])
    half_width = 1.96 * values.std() / np.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.04)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.04)
    assert (interval.num_values, interval.num_seeds) == (400, 1)


def test_the_interval_covers_the_true_success_rate_about_95_times_in_100():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        interval = interval_of_mean([rng.random(300) < 0.7], num_resamples=500, seed=trial)
        hits += interval.low <= 0.7 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_seeds_that_differ_widen_the_interval_beyond_their_episodes():
    good, bad = np.ones(300), np.zeros(300)
    interval = interval_of_mean([good, bad], bounds=(0, 1))
    assert interval.mean == 0.5
    assert (interval.low, interval.high) == (0.0, 1.0)
    pooled = interval_of_mean([np.concatenate([good, bad])])
    assert pooled.high - pooled.low < 0.1


def test_every_seed_weighs_the_same_however_many_episodes_it_has():
    assert interval_of_mean([[1.0] * 10, [0.0] * 1000]).mean == 0.5


def test_the_same_values_give_the_same_interval():
    values = [np.arange(10.0), np.arange(5.0)]
    assert interval_of_mean(values) == interval_of_mean(values)


@pytest.mark.parametrize("values", [[], [[]], [[1.0], []]])
def test_a_seed_without_values_is_rejected(values):
    with pytest.raises(ValueError, match="at least one value"):
        interval_of_mean(values)


def test_undefined_values_are_rejected():
    with pytest.raises(ValueError, match="not finite"):
        interval_of_mean([[0.0, float("nan")]])


def coverage(num_seeds: int, num_episodes: int, seed_std: float, is_paired: bool = False) -> float:
    """Share of 500 simulated studies whose interval holds the true mean, 0.6 (paired: 0.1)."""
    rng = np.random.default_rng(num_seeds)
    hits = 0
    for study in range(500):
        rates = np.clip(0.6 + seed_std * rng.standard_normal((num_seeds, 1)), 0, 1)
        draws = rng.random((num_seeds, num_episodes))
        values = (draws < rates).astype(float)
        if is_paired:  # the same seeds and episodes, 0.1 more often
            values = (draws < rates + 0.1).astype(float) - values
        interval = interval_of_mean(list(values), num_resamples=200, seed=study)
        hits += interval.low <= (0.1 if is_paired else 0.6) <= interval.high
    return hits / 500


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("seed_std", [0.0, 0.1])
def test_intervals_of_few_seeds_hold_the_truth_in_nine_of_ten_studies(num_seeds, seed_std):
    assert coverage(num_seeds, 50, seed_std) >= 0.9


def test_paired_differences_hold_the_truth_in_nine_of_ten_studies():
    assert coverage(3, 50, 0.05, is_paired=True) >= 0.9


def test_three_seeds_have_students_interval():
    means = [0.2, 0.5, 0.6]
    interval = interval_of_mean([[mean] for mean in means])
    half_width = 4.302653 * np.std(means, ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    assert interval.low == pytest.approx(np.mean(means) - half_width)
    assert interval.high == pytest.approx(np.mean(means) + half_width)


def test_the_interquartile_mean_is_that_of_the_middle_half_of_all_runs():
    tasks = [[0.0, 0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 100.0]]
    iqm = interquartile_mean(tasks)
    assert iqm.mean == pytest.approx(np.mean([0.2, 0.3, 0.4, 0.5]))  # the outlier has no say
    assert iqm.low < iqm.mean < iqm.high
    assert (iqm.num_values, iqm.num_seeds) == (8, 4)


def test_one_run_per_task_has_no_interval_over_tasks():
    assert str(interquartile_mean([[0.2], [0.4]])) == "0.300"
    assert probability_of_improvement([[0.5], [0.9]], [[0.4], [0.8]]).in_percent() == "100 %"


def test_the_probability_of_improvement_counts_pairs_of_runs_and_averages_tasks():
    better = probability_of_improvement([[2, 3], [1, 1]], [[1, 0], [1, 0]])
    assert better.mean == pytest.approx((1 + 0.75) / 2)  # a tie counts half
    same = [list(np.random.default_rng(task).normal(size=20)) for task in range(3)]
    assert probability_of_improvement(same, same).mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="the same tasks"):
        probability_of_improvement([[1]], [[1], [2]])


def test_the_intervals_over_tasks_hold_the_truth_in_nine_of_ten_studies():
    """Four tasks of ten runs each; ours is better by one standard deviation: P = 0.76."""
    rng, hits_iqm, hits_p = np.random.default_rng(0), 0, 0
    for study in range(500):
        ours, theirs = rng.normal(1, 1, (4, 10)), rng.normal(0, 1, (4, 10))
        iqm = interquartile_mean(list(ours), seed=study)
        p = probability_of_improvement(list(ours), list(theirs), seed=study)
        hits_iqm += iqm.low <= 1 <= iqm.high
        hits_p += p.low <= 0.7602 <= p.high  # Phi(1 / sqrt(2))
    assert hits_iqm / 500 >= 0.9 and hits_p / 500 >= 0.9
