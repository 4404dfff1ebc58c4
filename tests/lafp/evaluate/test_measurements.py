"""What the runs of a study share when each of them is evaluated."""

import numpy as np
import pytest

from lafp.envs.slalom import SlalomConfig
from lafp.evaluate import measurements
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM


@pytest.fixture
def calls(monkeypatch):
    """The arguments of all rollouts from now on."""
    found, rollout = [], measurements.rollout

    def noted(*args, **kwargs):
        found.append(args)
        return rollout(*args, **kwargs)

    monkeypatch.setattr(measurements, "rollout", noted)
    measurements._remembered_reference.cache_clear()
    return found


def demonstrated(run="run", env=None, name=DEMONSTRATOR, seeds=(3, 4), num_recorded=0, seed=0):
    return measurements.measure_rollouts(
        run, env or SlalomConfig(), name, np.array(seeds), num_recorded, seed
    )


def test_the_demonstrators_episodes_are_run_once_for_all_runs(calls):
    first, second = demonstrated(run="one"), demonstrated(run="other")
    assert len(calls) == 1
    measurements._remembered_reference.cache_clear()
    anew = demonstrated()
    for result in (first, second):
        np.testing.assert_array_equal(result.path, anew.path)
        np.testing.assert_array_equal(result.success, anew.success)


@pytest.mark.parametrize(
    "other",
    [
        {"env": SlalomConfig(distractors=True)},
        {"seeds": (3, 5)},
        {"seed": 1},
        {"num_recorded": 2},
        {"name": RANDOM},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_episodes_of_the_demonstrator_are_run(calls, other):
    demonstrated()
    assert len(demonstrated(**other).recordings) == other.get("num_recorded", 0)
    assert len(calls) == 2


def test_recorded_frames_are_not_kept(calls):
    for _ in range(2):
        assert len(demonstrated(num_recorded=2).recordings) == 2
    assert len(calls) == 2
