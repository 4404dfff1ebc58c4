"""Several tasks of Meta-World by LeRobot's protocol."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lafp.config import ConfigError
from lafp.envs.base import conditions_of, episode_seeds, tasks_of
from lafp.envs.metaworld_mt import MetaworldMt, MetaworldMtConfig
from lafp.envs.mujoco.rendering import RenderConfig
from lafp.evaluate.acting.rollouts import Expert, rollout
from lafp.video.convert import Scaler
from tests.simulators import demonstrate, skip_without

skip_without("metaworld")

TWO = MetaworldMtConfig(
    tasks=("drawer-close-v3", "reach-v3"), size_px=24, render=RenderConfig(), episode_steps=3
)


def lerobots(task: str, seed: int):
    """The environment as LeRobot makes it, line by line, after ``reset(seed=seed)``."""
    import metaworld

    mt1 = metaworld.MT1(task, seed=42)
    env = mt1.train_classes[task](render_mode="rgb_array", camera_name="corner2")
    env.set_task(mt1.train_tasks[0])
    env.model.cam_pos[2] = [0.75, 0.075, 0.7]
    env.reset()
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env.seed(seed)
    obs, _ = env.reset(seed=seed)
    return env, obs


def test_an_episode_is_the_one_of_lerobot_pixel_by_pixel():
    theirs, raw = lerobots("reach-v3", seed=3)
    env = MetaworldMt(MetaworldMtConfig(tasks=TWO.tasks))
    picture = env.reset(np.array([3 * 2 + 1]))[0]
    their_picture = np.flip(theirs.render(), (0, 1))
    np.testing.assert_array_equal(picture, their_picture)
    np.testing.assert_array_equal(env.state()[0], raw[:4].astype(np.float32))
    action = np.array([0.5, -0.5, 0.25, 1.0], np.float32)
    raw, reward, _, _, info = theirs.step(action)
    result = env.step(action[None])
    np.testing.assert_array_equal(env.state()[0], raw[:4].astype(np.float32))
    assert result.reward[0] == np.float32(reward)
    assert result.success[0] == bool(info["success"])
    small = MetaworldMt(MetaworldMtConfig(tasks=TWO.tasks, size_px=64)).reset(np.array([7]))[0]
    np.testing.assert_array_equal(small, Scaler(64, 64)(their_picture))
    theirs.close()


def test_an_episode_has_500_steps_of_an_80th_second_and_ends_with_success():
    env = MetaworldMt(MetaworldMtConfig(tasks=("mt10",)))
    assert (env.max_steps, env.fps, env.height_px, env.width_px) == (500, 80, 480, 480)
    assert env.task == "metaworld-mt10"
    env = MetaworldMt(TWO)
    result = demonstrate(env, [0, 1], 3)[-1]
    assert result.truncated.all() and not result.terminated.any()


def test_the_scripted_expert_succeeds_and_the_episode_says_which_task_it_was():
    env = MetaworldMt(replace(TWO, episode_steps=500))
    result = rollout(env, Expert(env), np.array([1, 2]), num_recorded=2)
    assert result.success.all() and (result.length < 120).all()
    assert result.tasks == ("reach-v3", "drawer-close-v3")
    assert [list(recording.condition) for recording in result.recordings] == [[0, 1], [1, 0]]
    assert result.recordings[0].state.shape == (result.length[0] + 1, 4)


def test_an_episode_is_the_same_in_any_batch():
    env = MetaworldMt(TWO)
    together, actions, _ = demonstrate(env, [7, 8], 2)
    alone, own_actions, _ = demonstrate(env, [8], 2)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    np.testing.assert_array_equal(actions[:, 1], own_actions[:, 0])


def test_all_tasks_get_the_same_number_of_episodes():
    env = MetaworldMt(MetaworldMtConfig(tasks=("mt10",)))
    seeds = episode_seeds(env, 5, "evaluate", 0, 30)
    assert set(Counter(tasks_of(env, seeds)).values()) == {3} and len(set(seeds)) == 30
    np.testing.assert_array_equal(conditions_of(env, seeds)[:10], np.eye(10))
    np.testing.assert_array_equal(seeds[12:], episode_seeds(env, 5, "evaluate", 12, 30))


def test_lerobots_difficulties_are_all_of_mt50():
    sizes = {"easy": 28, "medium": 11, "hard": 6, "very_hard": 5}
    found = {name: MetaworldMt(MetaworldMtConfig(tasks=(name,))).tasks for name in sizes}
    assert {name: len(tasks) for name, tasks in found.items()} == sizes
    together = MetaworldMt(MetaworldMtConfig(tasks=tuple(sizes))).tasks
    assert set(together) == set(MetaworldMt(MetaworldMtConfig(tasks=("mt50",))).tasks)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (("fly-v3",), r"tasks: fly-v3 is not in Meta-World. Name a set \(mt10, mt25, mt50, easy"),
        (("mt10", "reach-v3"), "tasks name these more than once: reach-v3"),
    ],
)
def test_wrong_tasks_are_said_in_words(tasks, message):
    with pytest.raises(ConfigError, match=message):
        MetaworldMt(MetaworldMtConfig(tasks=tasks))


def test_the_mask_shows_the_arm():
    env = MetaworldMt(replace(TWO, size_px=96))
    frame, mask = env.reset(np.array([0]))[0].astype(int), env.agent_mask()[0]
    is_red = (frame[..., 0] > frame[..., 1] + 60) & (frame[..., 0] > frame[..., 2] + 60)
    assert is_red.sum() > 20 and mask[is_red].mean() > 0.8
    assert 0.02 < mask.mean() < 0.4
