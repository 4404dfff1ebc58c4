from dataclasses import replace

import numpy as np
import pytest

from lafp.config import ConfigError
from lafp.envs.metaworld import GoalsConfig, Metaworld, MetaworldConfig
from lafp.envs.mujoco.distractors import DistractorConfig
from lafp.evaluate.acting.rollouts import Expert, rollout
from tests.simulators import demonstrate, skip_without
from tests.synthetic_video import moving_square, write_video

skip_without("metaworld")

DRAWER = MetaworldConfig(task="drawer-open-v3", size_px=24)
GOALS = GoalsConfig(positions=((-0.12, 0.85, 0.15), (0.12, 0.85, 0.15)), fork=(0.0, 0.8, 0.15))
REACH = MetaworldConfig(task="reach-v3", size_px=24, goals=GOALS)


@pytest.mark.parametrize("cfg", [DRAWER, REACH], ids=["drawer", "two_goals"])
def test_ten_steps_show_a_moving_arm(cfg):
    env = Metaworld(cfg)
    frames, actions, result = demonstrate(env, [0, 1], 10)
    assert frames.shape == (11, 2, 24, 24, 3) and frames.dtype == np.uint8
    assert actions.shape == (10, 2, 4) and np.abs(actions).max() <= 1
    assert (frames[-1] != frames[0]).any(axis=(1, 2, 3)).all()
    assert not result.success.any() and env.fps == 80


def test_an_episode_is_the_same_in_any_batch():
    env = Metaworld(REACH)
    together, actions, _ = demonstrate(env, [7, 8], 10)
    alone, own_actions, _ = demonstrate(env, [8], 10)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    np.testing.assert_array_equal(actions[:, 1], own_actions[:, 0])


def test_the_table_lies_below():
    frame = Metaworld(replace(DRAWER, size_px=48)).reset(np.array([0]))[0].astype(int)
    brown = (frame[..., 0] > frame[..., 2] + 15) & (frame[..., 1] > frame[..., 2])
    rows = np.flatnonzero(brown.any(axis=1))
    assert rows.mean() > 20


def test_the_scripted_expert_opens_the_drawer():
    env = Metaworld(replace(DRAWER, size_px=8))
    result = rollout(env, Expert(env), np.arange(2))
    assert result.success.all() and result.length.max() < 120
    assert result.modes.shape == (2, 0)


def test_the_demonstrator_picks_either_goal_and_reaches_the_one_it_picked():
    env = Metaworld(replace(REACH, size_px=8))
    result = rollout(env, Expert(env), np.arange(6))
    assert result.success.all()
    assert set(result.modes[:, 0]) == {0, 1}
    hand_x = result.path[np.arange(6), result.length, 0]
    np.testing.assert_array_equal(hand_x > 0, result.modes[:, 0] == 1)


def test_the_way_to_the_fork_tells_nothing_of_the_goal_and_neither_does_the_state():
    env = Metaworld(replace(REACH, size_px=8))
    seeds = np.arange(6)
    _, actions, _ = demonstrate(env, seeds, 15)
    goals = np.array([episode._chosen for episode in env._episodes])
    assert set(goals) == {0, 1}
    assert np.abs(actions - actions[:, :1]).max() < 1e-5
    assert env.state().shape == (6, 36)


@pytest.mark.parametrize("goal", [0, 1])
def test_any_goal_is_a_success(goal):
    env = Metaworld(replace(REACH, size_px=8))
    env.reset(np.array([3]))
    env._episodes[0]._chosen = goal
    for _ in range(100):
        result = env.step(env.expert())
    assert result.success.all() and env.modes().tolist() == [[goal]]


AROUND = replace(
    REACH,
    action_repeat=4,
    goals=GoalsConfig(
        positions=((-0.2, 0.84, 0.15), (0.2, 0.84, 0.15)),
        fork=(0.0, 0.74, 0.15),
        obstacle=(0.0, 0.81, 0.15),
    ),
)


def test_the_demonstrator_goes_around_the_obstacle_and_whoever_goes_straight_on_fails():
    env = Metaworld(replace(AROUND, size_px=8))
    result = rollout(env, Expert(env), np.arange(6))
    assert result.success.all() and set(result.modes[:, 0]) == {0, 1}
    env.reset(np.array([0, 1]))
    straight = np.tile(np.array([0, 1, 0, 0], np.float32), (2, 1))
    for _ in range(20):
        before = env.state()[:, 1]
        moved = env.step(straight)
        if moved.terminated.all():
            break
    assert moved.terminated.all() and not moved.success.any() and not moved.truncated.any()
    assert (before < 0.81).all(), "on its near side"
    assert (env.modes() == -1).all()
    assert (env.step(straight).reward == 0).all(), "the episode is over"


def test_the_obstacle_is_seen():
    near = replace(AROUND, size_px=96, camera="behindGripper")
    with_ball, without = (
        Metaworld(replace(near, goals=replace(near.goals, obstacle=position)))
        .reset(np.array([0]))
        .astype(int)
        for position in (AROUND.goals.obstacle, None)
    )
    blue = [
        ((f[..., 2] > f[..., 0] + 50) & (f[..., 2] > f[..., 1] + 50)).sum()
        for f in (with_ball, without)
    ]
    assert blue[0] > 20 and blue[1] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "fly-v3", "goals": None}, "fly-v3 is not in Meta-World"),
        ({"camera": "moon"}, "camera must be one of topview"),
    ],
)
def test_what_is_not_there_is_said_in_words(change, message):
    with pytest.raises(ConfigError, match=message):
        Metaworld(replace(REACH, **change))


def test_goals_are_refused_where_success_is_no_distance():
    with pytest.raises(ValueError, match="goals are for reach-v3"):
        replace(DRAWER, goals=GOALS)


@pytest.mark.parametrize(("share", "hides_floor"), [(1.0, False), (1.0, True), (0.5, False)])
def test_a_video_shows_behind_table_and_arm_and_changes_no_episode(tmp_path, share, hides_floor):
    for seed in range(8):
        write_video(tmp_path / f"{seed}.mp4", moving_square(20, seed=seed), fps=10)
    distractors = DistractorConfig(background=share, videos=str(tmp_path), hides_floor=hides_floor)
    plain = replace(DRAWER, size_px=48)
    env = Metaworld(replace(plain, distractors=distractors))
    assert env.has_distractors and not Metaworld(plain).has_distractors
    clean, clean_actions, _ = demonstrate(Metaworld(plain), [3], 4)
    noisy, noisy_actions, _ = demonstrate(env, [3], 4)
    np.testing.assert_array_equal(clean_actions, noisy_actions)
    is_video = (clean != noisy).any(-1)[:, 0]
    assert 0.15 < is_video.mean() < 0.6
    assert is_video[:, :12].mean() > 0.5, "it is above"
    assert not is_video[:, -6:].any(), "the table is below"


def test_a_half_transparent_video_is_the_mean_of_sky_and_video_up_to_the_corners(tmp_path):
    """MuJoCo's sky is nearer in the corners of this camera's wide view."""
    for seed in range(8):
        write_video(tmp_path / f"{seed}.mp4", moving_square(20, seed=seed), fps=10)

    def shown(share: float) -> np.ndarray:
        distractors = DistractorConfig(
            background=share, videos=str(tmp_path) if share else None, hides_floor=True
        )
        env = Metaworld(replace(DRAWER, size_px=48, distractors=distractors))
        return demonstrate(env, [3], 1)[0].astype(float)

    np.testing.assert_allclose(shown(0.5), (shown(0.0) + shown(1.0)) / 2, atol=0.5)


@pytest.mark.parametrize("camera", ["corner4", "behindGripper"])
def test_the_mask_shows_the_arm_and_not_the_drawer(camera):
    env = Metaworld(replace(DRAWER, size_px=64, camera=camera))
    frame, mask = env.reset(np.array([0]))[0].astype(int), env.agent_mask()[0]
    is_red = (frame[..., 0] > frame[..., 1] + 60) & (frame[..., 0] > frame[..., 2] + 60)
    is_green = frame[..., 1] > frame[..., [0, 2]].max(-1) + 15
    assert is_red.sum() > 50 and is_green.sum() > 50, "the arm is red, the drawer is green"
    assert mask[is_red].mean() > 0.9 and mask[is_green].mean() < 0.05
    assert 0.02 < mask.mean() < 0.4
