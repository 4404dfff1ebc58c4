from dataclasses import replace

import numpy as np
import pytest

from lafp.evaluate.acting.latency import Latency
from lafp.evaluate.rows.outcomes import Episode, read_episode_outcomes, write_episodes
from lafp.evaluate.rows.result_rows import action_error_rows, latency_rows, probe_rows, rollout_rows
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM, Subject, outcome_metric

SUBJECT = Subject(label="flow", method="latent_flow", anchor_low=0.5, anchor_high=0.5)
LAM = Subject(label="lam", method="lam", objective="lapo", seed=3)


def episodes(success, modes):
    return [
        Episode(
            label="flow", method="latent_flow", episode=n, episode_seed=n, success=bool(ok),
            episode_return=2.0 * ok, length=20, modes=list(mode),
        )
        for n, (ok, mode) in enumerate(zip(success, modes, strict=True))
    ]  # fmt: skip


FOUR_WAYS = [(a, b) for a in (0, 1) for b in (0, 1)] * 25


def returns(values, label="flow"):
    """Episodes of a task that knows no success."""
    return [
        replace(episode, success=None, episode_return=float(value), label=label)
        for value, episode in zip(
            values, episodes([1] * len(values), [()] * len(values)), strict=True
        )
    ]


def test_rollouts_become_means_with_intervals_and_modes():
    success = [True] * 75 + [False] * 25
    rows = rollout_rows(
        SUBJECT,
        episodes(success, [(0, 0), (1, 1)] * 50),
        episodes([True] * 100, FOUR_WAYS),
        [],
        (2, 2),
    )
    found = {row.metric: row for row in rows}
    assert found["success"].value == 0.75 and found["success"].n == 100
    assert 0.65 < found["success"].low < 0.75 < found["success"].high < 0.85
    assert found["return"].value == 1.5
    assert "return_above_random" not in found, "nobody acted at random"
    assert found["side_entropy"].value == 1.0
    assert found["mode_coverage"].value == 0.5
    assert all((row.label, row.anchor_time) == ("flow", 0.5) for row in rows)


def test_a_normalized_return_is_0_for_random_actions_and_1_for_the_demonstrators():
    """(R - random) / (demonstrators - random), also where returns are negative."""
    random, best = returns([-20, -18, -22, -20]), returns([-10, -12, -8, -10])
    of = {
        name: {row.metric: row for row in rollout_rows(SUBJECT, some, best, random, ())}
        for name, some in (
            ("random", random),
            ("best", best),
            ("ours", returns([-17, -15, -19, -9])),
        )
    }
    values = {name: found["return_above_random"].value for name, found in of.items()}
    assert values == pytest.approx({"random": 0.0, "best": 1.0, "ours": 0.5})
    ours = of["ours"]
    for end in ("low", "high"):
        expected = (getattr(ours["return"], end) + 20) / 10
        assert getattr(ours["return_above_random"], end) == pytest.approx(expected)
    assert ours["return_above_random"].low < 0.5 < ours["return_above_random"].high


def test_demonstrators_that_do_no_better_than_random_actions_give_no_scale(tmp_path):
    random, best = returns([0, 3, 1, 2, 0, 3]), returns([1, 2, 3, 0, 0, 3.1], DEMONSTRATOR)
    rows = rollout_rows(SUBJECT, random, best, random, ())
    assert outcome_metric(rows) == "return"
    uri = str(tmp_path / "episodes.parquet")
    write_episodes(uri, [*best, *(replace(e, label=RANDOM) for e in random)])
    np.testing.assert_allclose(read_episode_outcomes(uri)[RANDOM], [0, 3, 1, 2, 0, 3])


def test_success_is_told_for_each_of_several_tasks():
    some = [
        replace(episode, episode_task="reach" if episode.episode % 4 else "push")
        for episode in episodes([True, True, True, False] * 25, [()] * 100)
    ]
    found = {row.metric: row for row in rollout_rows(SUBJECT, some, some, [], ())}
    assert found["success"].value == 0.75
    reach, push = found["success_on_reach"], found["success_on_push"]
    assert (reach.value, reach.n, push.value, push.n) == (pytest.approx(2 / 3), 75, 1.0, 25)
    assert 0.5 < reach.low < 2 / 3 < reach.high < 0.8
    unknown = [replace(episode, success=None) for episode in some]
    assert not any("_on_" in row.metric for row in rollout_rows(SUBJECT, unknown, unknown, [], ()))


def test_a_task_without_success_is_measured_by_its_return():
    rows = rollout_rows(SUBJECT, returns([2, 0, 2, 2]), returns([2] * 4), returns([0] * 4), ())
    assert {row.metric for row in rows} == {"return", "return_above_random", "length"}
    assert outcome_metric(rows) == "return_above_random"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_demonstration_without_a_finite_return_costs_only_itself(tmp_path, value):
    some, random = returns([2, 2, 0, 2]), returns([1, 0, 7, 2], RANDOM)
    best = returns([5, 4, value, 6], DEMONSTRATOR)
    found = {row.metric: row.value for row in rollout_rows(SUBJECT, some, best, random, ())}
    assert found["return_above_random"] == pytest.approx((1.5 - 1) / (5 - 1))
    uri = str(tmp_path / "episodes.parquet")
    write_episodes(uri, [*some, *best, *random])
    mean = read_episode_outcomes(uri)["flow"].mean()
    assert mean == pytest.approx(found["return_above_random"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_return_that_is_not_finite_costs_only_its_own_episode(value):
    """It ended the evaluation with a ValueError."""
    some = episodes([1, 1, 0, 1], [()] * 4)
    some[1] = replace(some[1], episode_return=value)
    found = {row.metric: row for row in rollout_rows(SUBJECT, some, some, [], ())}
    assert (found["return"].value, found["return"].n) == (pytest.approx(4 / 3), 3)
    assert found["success"].n == found["length"].n == 4
    nothing = [replace(episode, episode_return=value) for episode in some]
    assert {row.metric for row in rollout_rows(SUBJECT, nothing, nothing, nothing, ())} == {
        "success",
        "length",
    }


def test_a_method_that_passes_no_fork_has_undefined_coverage():
    rows = rollout_rows(
        SUBJECT,
        episodes([False] * 9, [(-1, -1)] * 9),
        episodes([True] * 100, FOUR_WAYS),
        [],
        (2, 2),
    )
    coverage = next(row for row in rows if row.metric == "mode_coverage")
    assert np.isnan(coverage.value) and coverage.n == 0


def test_without_forks_there_are_no_modes():
    some = episodes([True], [()])
    assert "mode_coverage" not in {row.metric for row in rollout_rows(SUBJECT, some, some, [], ())}


def test_action_errors_carry_their_number_of_transitions():
    rows = action_error_rows(SUBJECT, {"action_mse": 0.1, "action_r2": 0.8, "num_transitions": 70})
    assert {(row.metric, row.value, row.n) for row in rows} == {
        ("action_mse", 0.1, 70),
        ("action_r2", 0.8, 70),
    }


def test_latency_names_its_batch_size_and_has_a_ratio_only_with_a_baseline():
    with_ratio = Latency(median_ms=2.0, ratio=1.25, num_rounds=9, disturbance=0.1)
    assert [(r.metric, r.value) for r in latency_rows(SUBJECT, 64, with_ratio)] == [
        ("latency_b64_ms", 2.0),
        ("latency_b64_disturbance", 0.1),
        ("latency_b64_ratio", 1.25),
    ]
    alone = replace(with_ratio, ratio=None)
    assert "latency_b1_ratio" not in {row.metric for row in latency_rows(SUBJECT, 1, alone)}


def test_the_probe_comes_with_its_controls():
    metrics = {
        "probe/r2": 0.9, "probe/r2_low": 0.85, "probe/r2_high": 0.93, "probe/mse": 0.02,
        "probe/action_variance": 0.2, "probe/n": 300.0, "probe/num_episodes": 30.0,
        "probe/r2_obs_embedding": 0.3, "probe/r2_random_lam": 0.4, "loss": 1.0,
    }  # fmt: skip
    rows = probe_rows(LAM, metrics)
    r2 = {
        row.method: (row.value, row.low, row.high, row.n)
        for row in rows
        if row.metric == "probe_r2"
    }
    assert r2 == {
        "lam": (0.9, 0.85, 0.93, 300),
        "nothing": (0.0, None, None, 300),
        "embedding": (0.3, None, None, 300),
        "random_lam": (0.4, None, None, 300),
    }
    mse = {row.method: row.value for row in rows if row.metric == "probe_mse"}
    assert mse == pytest.approx(
        {"lam": 0.02, "nothing": 0.2, "embedding": 0.14, "random_lam": 0.12}
    )
    assert all(row.seed == 3 for row in rows)


def test_a_lam_that_was_never_probed_has_no_probe_rows():
    assert probe_rows(LAM, {"loss": 0.5}) == []
