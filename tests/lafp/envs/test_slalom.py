import numpy as np
import pytest
from scipy.special import softmax

from lafp.envs import ENVS
from lafp.envs.slalom import (
    FAIL_RADIUS,
    ORANGE,
    PILLARS_P2,
    SIZE_PX,
    STEP_LENGTH,
    Slalom,
    SlalomConfig,
)

BOTH = pytest.mark.parametrize("distractors", [False, True])


def demonstrate(env, seeds):
    """Frames [T + 1, N, H, W, 3], actions [T, N, 2] and the last result."""
    frames, actions = [env.reset(np.asarray(seeds))], []
    while True:
        actions.append(env.expert())
        result = env.step(actions[-1])
        frames.append(result.obs)
        if result.done.all():
            return np.stack(frames), np.stack(actions), result


@pytest.fixture(scope="module")
def thousand_demonstrations():
    env = Slalom(SlalomConfig())
    _, actions, result = demonstrate(env, np.arange(1000))
    return env, actions, result


def test_the_demonstrator_always_succeeds_in_about_24_steps(thousand_demonstrations):
    env, actions, result = thousand_demonstrations
    assert result.success.all()
    assert 23 < env._num_steps_N.mean() < 26
    assert len(actions) < env.max_steps


def test_the_demonstrators_take_all_four_ways_equally_often(thousand_demonstrations):
    counts = np.bincount(thousand_demonstrations[0].modes() @ [2, 1], minlength=4)
    # Four standard deviations of a fair four-sided die.
    assert np.abs(counts - 250).max() < 4 * np.sqrt(1000 * 0.25 * 0.75)


def test_expert_actions_lie_in_the_action_space(thousand_demonstrations):
    _, actions, _ = thousand_demonstrations
    assert actions.dtype == np.float32
    assert np.linalg.norm(actions, axis=-1).max() <= 1 + 1e-6


@BOTH
def test_an_episode_is_the_same_in_any_batch(distractors):
    env = Slalom(SlalomConfig(distractors=distractors))
    together, actions, _ = demonstrate(env, [7, 8, 9])
    alone, own_actions, _ = demonstrate(env, [8])
    np.testing.assert_array_equal(together[: len(alone), 1], alone[:, 0])
    np.testing.assert_array_equal(actions[: len(own_actions), 1], own_actions[:, 0])


@BOTH
def test_episodes_of_different_seeds_differ(distractors):
    obs = Slalom(SlalomConfig(distractors=distractors)).reset(np.array([1, 2]))
    assert (obs[0] != obs[1]).any()


def test_distractors_change_pixels_and_nothing_else():
    clean, clean_actions, _ = demonstrate(Slalom(SlalomConfig()), np.arange(5))
    noisy, noisy_actions, _ = demonstrate(Slalom(SlalomConfig(distractors=True)), np.arange(5))
    np.testing.assert_array_equal(clean_actions, noisy_actions)
    assert (clean != noisy).mean() > 0.5


def test_going_straight_hits_the_first_pillar_and_ends_the_episode():
    env = Slalom(SlalomConfig())
    env.reset(np.arange(20))
    straight = np.tile([1.0, 0.0], (20, 1))
    while True:
        result = env.step(straight)
        if result.done.all():
            break
    assert result.terminated.all() and not result.success.any()
    distance = np.linalg.norm(env.state() - PILLARS_P2[0], axis=1)
    assert (distance < FAIL_RADIUS).all()
    assert (env.modes() == -1).all()
    before = env.state()
    env.step(straight)
    np.testing.assert_array_equal(env.state(), before)


def test_standing_still_runs_out_of_steps():
    env = Slalom(SlalomConfig())
    env.reset(np.arange(3))
    for step in range(env.max_steps):
        result = env.step(np.zeros((3, 2)))
        assert result.truncated.all() == (step == env.max_steps - 1)
    assert not result.terminated.any()


def test_long_actions_are_shortened_to_one_step_length():
    env = Slalom(SlalomConfig())
    env.reset(np.arange(4))
    before = env.state()
    env.step(np.tile([0.0, -30.0], (4, 1)))
    np.testing.assert_allclose(env.state() - before, [[0, -STEP_LENGTH]] * 4, atol=1e-6)


def test_reward_is_paid_once_at_the_success():
    env = Slalom(SlalomConfig())
    env.reset(np.arange(10))
    total = np.zeros(10)
    for _ in range(env.max_steps):
        total += env.step(env.expert()).reward
    np.testing.assert_array_equal(total, 1)


@BOTH
def test_the_agent_is_drawn_where_it_is(distractors):
    env = Slalom(SlalomConfig(distractors=distractors))
    env.reset(np.arange(8))
    for _ in range(10):
        obs = env.step(env.expert()).obs
        column, row = (env.state() * SIZE_PX).astype(int).T
        np.testing.assert_allclose(obs[np.arange(8), row, column], [ORANGE] * 8, atol=60)
        is_orange = (np.abs(obs.astype(int) - ORANGE).sum(axis=-1)) < 30
        for n in range(8):
            y, x = np.nonzero(is_orange[n])
            center = (np.array([x.mean(), y.mean()]) + 0.5) / SIZE_PX
            np.testing.assert_allclose(center, env.state()[n], atol=0.6 / SIZE_PX)


def test_the_registry_builds_it_from_its_name():
    assert ENVS.get("slalom") is Slalom
    assert Slalom.Config().name == "slalom"


def test_a_wrong_batch_of_actions_is_named():
    env = Slalom(SlalomConfig())
    env.reset(np.arange(3))
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 2\)"):
        env.step(np.zeros((2, 2)))


@pytest.fixture(scope="module")
def positions_and_actions():
    """Of 1,500 demonstrations: float [K, 2] each."""
    env = Slalom(SlalomConfig())
    env.reset(np.arange(10_000, 11_500))
    positions, actions, is_over = [], [], np.zeros(1_500, bool)
    while not is_over.all():
        positions.append(env.state()[~is_over, :2])
        action = env.expert()
        actions.append(action[~is_over])
        is_over = env.step(action).done
    return np.concatenate(positions), np.concatenate(actions)


def clone(positions_and_actions, width, num_episodes=60):
    """Success of the demonstrators' mean action, averaged over a Gaussian of that width."""
    positions, actions = positions_and_actions
    env = Slalom(SlalomConfig())
    env.reset(np.arange(num_episodes))
    is_over = np.zeros(num_episodes, bool)
    while not is_over.all():
        here = env.state()[:, None, :2]
        # Where no demonstrator was, the nearest ones count.
        result = env.step(
            softmax(-0.5 * np.square((here - positions) / width).sum(-1), 1) @ actions
        )
        is_over = result.done
    return result.success.mean()


def test_a_smooth_average_of_the_demonstrators_crashes(positions_and_actions):
    assert clone(positions_and_actions, width=0.01) == 0


def test_a_sharp_average_tips_over_before_the_pillar_so_cloning_need_not_fail(
    positions_and_actions,
):
    """What the fork tests is smoothness: see docs/results.md on the rows of cloning."""
    assert clone(positions_and_actions, width=0.002) > 0.3


def test_the_demonstrators_noise_is_what_it_adds_to_its_way():
    env = Slalom(SlalomConfig())
    env.reset(np.arange(200))
    noise = env.expert_noise()
    without = env.expert() - noise
    assert 0.06 < noise.std() < 0.1  # 0.09, less where actions are clipped
    np.testing.assert_allclose(np.linalg.norm(without, axis=1).max(), 1, atol=1e-5)
    np.testing.assert_array_equal(noise, env.expert_noise())


def test_the_noise_of_the_expert_is_that_of_the_config():
    noises = {}
    for std in (0.0, 0.09, 0.2):
        env = Slalom(SlalomConfig(expert_noise=std))
        env.reset(np.arange(2000))
        noises[std] = env.expert_noise()
    assert not noises[0.0].any()
    # Actions longer than 1 are shortened, so only what is across the way keeps its noise.
    assert noises[0.2][:, 1].std() == pytest.approx(0.2, rel=0.1)
    assert noises[0.09][:, 1].std() == pytest.approx(0.09, rel=0.1)


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match="expert_noise must not be negative"):
        SlalomConfig(expert_noise=-0.1)
