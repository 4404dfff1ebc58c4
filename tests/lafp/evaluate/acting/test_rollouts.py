import weakref

import numpy as np
import pytest

from lafp.config import ConfigError
from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.evaluate.acting.rollouts import Expert, rollout


class Straight:
    """Runs into the first pillar."""

    def reset(self, num_episodes, seed):
        self.num_episodes = num_episodes

    reads = frozenset({"image"})

    def end_where(self, is_over):
        assert len(is_over) == self.num_episodes
        self.num_episodes -= is_over.sum()

    def act(self, obs):
        assert obs.shape == (self.num_episodes, 48, 48, 3)
        return np.tile([1.0, 0.0], (self.num_episodes, 1))


def test_the_expert_succeeds_and_its_recordings_replay_to_the_same_frames():
    env = Slalom(SlalomConfig(distractors=True))
    result = rollout(env, Expert(env), np.arange(5), num_recorded=2)
    assert result.success.all()
    np.testing.assert_array_equal(result.episode_return, 1)
    assert (result.modes >= 0).all()
    assert len(result.recordings) == 2
    for n, recording in enumerate(result.recordings):
        assert len(recording.frames) == len(recording.state) == result.length[n] + 1
        frames = [env.reset(np.array([n]))[0]]
        for action in recording.actions:
            last = env.step(action[None])
            frames.append(last.obs[0])
        np.testing.assert_array_equal(recording.frames, np.stack(frames))
        assert last.success[0]


def test_an_actor_without_a_plan_fails_early():
    env = Slalom(SlalomConfig())
    result = rollout(env, Straight(), np.arange(10))
    assert not result.success.any()
    assert (result.length < 8).all()
    assert (result.modes == -1).all()
    assert result.recordings == ()


def test_results_do_not_depend_on_the_batch():
    env = Slalom(SlalomConfig())
    together = rollout(env, Expert(env), np.arange(6))
    halves = [rollout(env, Expert(env), seeds) for seeds in np.split(np.arange(6), 2)]
    for name in ("success", "episode_return", "length", "modes"):
        np.testing.assert_array_equal(
            getattr(together, name), np.concatenate([getattr(half, name) for half in halves])
        )


def test_an_actor_sees_only_episodes_that_go_on():
    env, seen = Slalom(SlalomConfig()), []

    class Watching(Expert):
        def act(self, obs):
            seen.append(len(obs))
            return super().act(obs)

    result = rollout(env, Watching(env), np.arange(12))
    assert seen[0] == 12 and seen[-1] < 12
    assert sum(seen) == result.length.sum()


def test_paths_stay_at_their_end_once_an_episode_is_over():
    env = Slalom(SlalomConfig())
    result = rollout(env, Expert(env), np.arange(20))
    shortest = int(result.length.argmin())
    tail = result.path[shortest, result.length[shortest] :]
    assert len(tail) == result.length.max() - result.length.min() + 1
    np.testing.assert_array_equal(tail, np.broadcast_to(tail[0], tail.shape))
    assert tail[0, 0] == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("num_recorded", [0, 2])
def test_pictures_of_episodes_that_are_not_recorded_are_let_go(num_recorded):
    class Watched(Slalom):
        def agent_mask(self):
            self.masks.append(weakref.ref(mask := np.zeros((8, 48, 48), bool)))
            return mask

        def step(self, actions):
            result = super().step(actions)
            self.pictures.append(weakref.ref(result.obs))
            return result

    env = Watched(SlalomConfig())
    env.pictures, env.masks, most = [], [], 0

    class Counting(Expert):
        def act(self, obs):
            nonlocal most
            most = max(most, sum(ref() is not None for ref in env.pictures + env.masks))
            return super().act(obs)

    result = rollout(env, Counting(env), np.arange(8), num_recorded=num_recorded, has_masks=True)
    assert len(env.pictures) == result.length.max() > 10
    assert most <= 4
    assert len(result.recordings) == num_recorded


class TwoTasks(Slalom):
    """Slalom under two names: tells which part of an episode a rollout passes on."""

    tasks = ("left", "right")


def test_an_actor_is_told_which_of_several_tasks_it_plays():
    class Told:
        reads = frozenset({"image", "condition"})

        def reset(self, num_episodes, seed):
            self.conditions = []

        def end_where(self, is_over):
            pass

        def act(self, obs):
            self.conditions.append(obs["condition"])
            return np.tile([1.0, 0.0], (len(obs["image"]), 1))

    told = Told()
    result = rollout(TwoTasks(SlalomConfig()), told, np.array([4, 7, 8]), num_recorded=3)
    one_hot = [[1, 0], [0, 1], [1, 0]]
    assert told.conditions[0].tolist() == one_hot
    assert [recording.condition.tolist() for recording in result.recordings] == one_hot
    assert result.tasks == ("left", "right", "left")


def test_a_policy_that_reads_a_task_is_refused_where_there_is_only_one():
    actor = Straight()
    actor.reads = frozenset({"image", "condition"})
    with pytest.raises(ConfigError, match="reads condition: there is none here"):
        rollout(Slalom(SlalomConfig()), actor, np.arange(2))
