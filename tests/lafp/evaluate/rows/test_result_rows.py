from dataclasses import replace

import numpy as np
import pytest

from lafp.evaluate.acting.latency import Latency
from lafp.evaluate.rows.outcomes import Episode, read_episode_outcomes, write_episodes
from lafp.evaluate.rows.result_rows import action_error_rows, latency_rows, probe_rows, rollout_rows
from lafp.evaluate.rows.results import DEMONSTRATOR, Subject, outcome_metric

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


def test_rollouts_become_means_with_intervals_and_shares_of_the_demonstrators():
    success = [True] * 75 + [False] * 25
    rows = rollout_rows(
        SUBJECT,
        episodes(success, [(0, 0), (1, 1)] * 50),
        episodes([True] * 100, FOUR_WAYS),
        (2, 2),
    )
    found = {row.metric: row for row in rows}
    assert found["success"].value == 0.75 and found["success"].n == 100
    assert 0.65 < found["success"].low < 0.75 < found["success"].high < 0.85
    assert found["return"].value == 1.5
    assert found["return_normalized"].value == 0.75
    assert found["return_normalized"].low == pytest.approx(found["success"].low)
    assert found["side_entropy"].value == 1.0
    assert found["mode_coverage"].value == 0.5
    assert all((row.label, row.anchor_time) == ("flow", 0.5) for row in rows)


def test_success_is_told_for_each_of_several_tasks():
    some = [
        replace(episode, episode_task="reach" if episode.episode % 4 else "push")
        for episode in episodes([True, True, True, False] * 25, [()] * 100)
    ]
    found = {row.metric: row for row in rollout_rows(SUBJECT, some, some, ())}
    assert found["success"].value == 0.75
    reach, push = found["success_on_reach"], found["success_on_push"]
    assert (reach.value, reach.n, push.value, push.n) == (pytest.approx(2 / 3), 75, 1.0, 25)
    assert 0.5 < reach.low < 2 / 3 < reach.high < 0.8
    unknown = [replace(episode, success=None) for episode in some]
    assert not any("_on_" in row.metric for row in rollout_rows(SUBJECT, unknown, unknown, ()))


def test_a_task_without_success_is_measured_by_its_return():
    some = [replace(episode, success=None) for episode in episodes([1, 0, 1, 1], [()] * 4)]
    best = [replace(episode, episode_return=2.0) for episode in some]
    rows = rollout_rows(SUBJECT, some, best, ())
    assert {row.metric for row in rows} == {"return", "return_normalized", "length"}
    assert outcome_metric(rows) == "return_normalized"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_demonstration_without_a_finite_return_costs_only_itself(tmp_path, value):
    some = [replace(episode, success=None) for episode in episodes([1, 1, 0, 1], [()] * 4)]
    best = [replace(e, episode_return=4.0, label=DEMONSTRATOR) for e in some]
    best[2] = replace(best[2], episode_return=value)
    found = {row.metric: row.value for row in rollout_rows(SUBJECT, some, best, ())}
    assert found["return_normalized"] == pytest.approx(1.5 / 4)
    uri = str(tmp_path / "episodes.parquet")
    write_episodes(uri, [*some, *best])
    assert read_episode_outcomes(uri)["flow"].mean() == pytest.approx(found["return_normalized"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_return_that_is_not_finite_costs_only_its_own_episode(value):
    """It ended the evaluation with a ValueError."""
    some = episodes([1, 1, 0, 1], [()] * 4)
    some[1] = replace(some[1], episode_return=value)
    found = {row.metric: row for row in rollout_rows(SUBJECT, some, episodes([1], [()]), ())}
    assert (found["return"].value, found["return"].n) == (pytest.approx(4 / 3), 3)
    assert found["success"].n == found["length"].n == 4
    nothing = [replace(episode, episode_return=value) for episode in some]
    assert {row.metric for row in rollout_rows(SUBJECT, nothing, nothing, ())} == {
        "success",
        "length",
    }


def test_a_method_that_passes_no_fork_has_undefined_coverage():
    rows = rollout_rows(
        SUBJECT,
        episodes([False] * 9, [(-1, -1)] * 9),
        episodes([True] * 100, FOUR_WAYS),
        (2, 2),
    )
    coverage = next(row for row in rows if row.metric == "mode_coverage")
    assert np.isnan(coverage.value) and coverage.n == 0


def test_without_forks_there_are_no_modes():
    some = episodes([True], [()])
    assert "mode_coverage" not in {row.metric for row in rollout_rows(SUBJECT, some, some, ())}


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
