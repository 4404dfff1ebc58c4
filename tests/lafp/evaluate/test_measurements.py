"""What the runs of a study share when each of them is evaluated."""

import numpy as np
import pytest

from lafp.envs.slalom import SlalomConfig
from lafp.evaluate import measurements


@pytest.mark.parametrize(("num_recorded", "num_rolled_out"), [(0, 1), (2, 3)])
def test_the_demonstrators_episodes_are_remembered_unless_their_frames_are_recorded(
    num_recorded, num_rolled_out, monkeypatch
):
    calls, rollout = [], measurements.rollout
    monkeypatch.setattr(
        measurements,
        "rollout",
        lambda *args, **kwargs: calls.append(args) or rollout(*args, **kwargs),
    )
    measurements._roll_out_expert.cache_clear()
    results = [
        measurements.measure_rollouts(
            f"run_{number}", SlalomConfig(), None, np.array([3, 4]), num_recorded, seed=0
        )
        for number in range(3)
    ]
    assert len(calls) == num_rolled_out
    for result in results:
        assert len(result.recordings) == num_recorded
        np.testing.assert_array_equal(result.path, results[0].path)
    other = measurements.measure_rollouts(
        "run_0", SlalomConfig(distractors=True), None, np.array([5, 6]), num_recorded, seed=0
    )
    assert len(calls) == num_rolled_out + 1
    assert not np.array_equal(other.path, results[0].path)
