import numpy as np
import pytest

from lafp.envs.procgen import Procgen, ProcgenConfig
from lafp.envs.slalom import Slalom, SlalomConfig
from lafp.evaluate import measurements
from lafp.evaluate.acting.random_policy import RandomPolicy
from lafp.evaluate.acting.rollouts import rollout
from lafp.evaluate.rows.outcomes import return_scale
from lafp.evaluate.rows.results import DEMONSTRATOR, RANDOM
from lafp.types import ActionSpec


def rolled_out(env, seeds):
    seeds = np.array(seeds)
    policy = RandomPolicy(env.action_spec, seeds)
    return rollout(env, policy, seeds, num_recorded=len(seeds))


def test_actions_are_uniform_between_the_bounds_of_each_dimension():
    spec = ActionSpec(dim=2, low=(-1.0, 10.0), high=(1.0, 50.0))
    policy = RandomPolicy(spec, np.arange(5000))
    policy.reset(5000, seed=0)
    first, second = policy.act(np.zeros(0)), policy.act(np.zeros(0))
    assert first.shape == (5000, 2) and first.dtype == np.float32
    scaled = (first - [-1, 10]) / [2, 40]
    np.testing.assert_allclose(scaled.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose([scaled.min(), scaled.max()], [0, 1], atol=0.002)
    np.testing.assert_allclose(scaled.var(0), 1 / 12, atol=0.004)
    pairs = np.corrcoef(np.concatenate([first, second], axis=1).T)
    np.testing.assert_allclose(pairs, np.eye(4), atol=0.06)


def test_an_episode_is_the_same_in_any_batch_and_after_others_have_ended():
    env = Slalom(SlalomConfig())
    together, alone = rolled_out(env, range(8)), rolled_out(env, [5])
    assert together.length.min() < together.length[5], "some other episode ends earlier"
    np.testing.assert_array_equal(together.recordings[5].actions, alone.recordings[0].actions)
    assert not together.success.any(), "nobody passes two pillars at random"


def test_discrete_actions_are_all_taken_and_the_planner_of_procgen_beats_them():
    pytest.importorskip("procgen", reason="procgen2 is not installed")
    cfg = ProcgenConfig(task="maze", expert="planner", episode_steps=60)
    env = Procgen(cfg)
    assert env.has_return
    taken = np.concatenate([r.actions for r in rolled_out(env, range(8)).recordings])
    assert taken.dtype == np.int64 and set(taken) == set(range(env.action_spec.dim))
    returns = [
        measurements.measure_rollouts("run", cfg, name, np.arange(8), 0, 0).episode_return
        for name in (RANDOM, DEMONSTRATOR)
    ]
    scale = return_scale(*returns)
    assert scale.random == pytest.approx(returns[0].mean()) and scale.random < 5
    assert scale.demonstrators == pytest.approx(returns[1].mean())
    assert [scale.normalized(r.mean()) for r in returns] == pytest.approx([0, 1])
