import numpy as np
import pytest

from lafp.config import ConfigError
from lafp.envs.minigrid import Minigrid, MinigridConfig
from lafp.evaluate.acting.rollouts import Expert, rollout
from tests.simulators import demonstrate

pytest.importorskip("minigrid", reason="minigrid is not installed")

CFG = MinigridConfig(task="BabyAI-GoToRedBallNoDists-v0")


def test_the_bot_always_finds_the_ball_and_ends_the_episode():
    env = Minigrid(CFG)
    result = rollout(env, Expert(env), np.arange(20), num_recorded=2)
    assert result.success.all() and result.length.max() < CFG.episode_steps
    assert result.episode_return.min() > 0.5
    recording = result.recordings[0]
    assert recording.actions.dtype == np.int64 and recording.actions.ndim == 1
    assert recording.frames.shape[1:] == (64, 64, 3)
    assert (recording.frames[1:] != recording.frames[:-1]).any(axis=(1, 2, 3)).all()


def test_an_episode_is_the_same_in_any_batch_and_stands_still_when_over():
    env = Minigrid(CFG)
    together, actions, result = demonstrate(env, [7, 8, 9], 30)
    alone, own_actions, _ = demonstrate(env, [8], 30)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    length = int((alone[1:] != alone[:-1]).any(axis=(1, 2, 3, 4)).nonzero()[0].max()) + 1
    np.testing.assert_array_equal(actions[:length, 1], own_actions[:length, 0])
    assert result.success.all() and (result.reward == 0).all()


def test_the_bot_takes_over_wherever_a_policy_has_led():
    env = Minigrid(CFG)
    env.reset(np.arange(5))
    for action in (0, 2, 2, 1, 2):
        env.step(np.full(5, action))
    for _ in range(50):
        first, second = env.expert(), env.expert()
        np.testing.assert_array_equal(first, second)
        result = env.step(first)
    assert result.success.all()


def test_a_level_that_the_bot_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="not a level of BabyAI"):
        Minigrid(MinigridConfig(task="MiniGrid-Empty-5x5-v0"))


def test_masks_that_the_simulator_cannot_draw_are_refused():
    env = Minigrid(CFG)
    with pytest.raises(ConfigError, match="cannot tell which pixels show the agent"):
        rollout(env, Expert(env), np.arange(1), num_recorded=1, has_masks=True)
