"""Seeds and tasks of episodes."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from lafp.data.randomness import derive_seed
from lafp.envs.base import conditions_of, episode_seeds, tasks_of

ONE, THREE = SimpleNamespace(tasks=()), SimpleNamespace(tasks=("a", "b", "c"))


def test_with_one_task_a_seed_is_drawn_from_the_number_alone():
    seeds = episode_seeds(ONE, 5, "evaluate", 2, 5)
    assert seeds.tolist() == [derive_seed(5, "evaluate", n) for n in (2, 3, 4)]
    assert tasks_of(ONE, seeds) == () and conditions_of(ONE, seeds) is None


def test_with_several_tasks_they_take_turns_and_batches_of_any_size_hold_the_same_episodes():
    seeds = episode_seeds(THREE, 5, "evaluate", 0, 300)
    assert tasks_of(THREE, seeds) == THREE.tasks * 100 and len(set(seeds)) == 300
    parts = [episode_seeds(THREE, 5, "evaluate", n, n + 60) for n in range(0, 300, 60)]
    np.testing.assert_array_equal(np.concatenate(parts), seeds)
    assert Counter(conditions_of(THREE, seeds).argmax(1)) == {0: 100, 1: 100, 2: 100}


@pytest.mark.parametrize("drawn", [0, 2**63 - 1])
def test_the_extreme_seeds_stay_in_range(monkeypatch, drawn):
    monkeypatch.setattr("lafp.envs.base.derive_seed", lambda *_: drawn)
    seeds = episode_seeds(THREE, 0, "evaluate", 0, 3)
    assert (seeds >= 0).all() and tasks_of(THREE, seeds) == ("a", "b", "c")
