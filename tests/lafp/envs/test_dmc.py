from dataclasses import replace

import numpy as np
import pytest
import torch

from lafp.config import ConfigError, load_config
from lafp.envs.dmc import Dmc, DmcConfig
from lafp.envs.episodes import ExplorationConfig
from lafp.envs.mujoco.agent import agent_geoms
from lafp.envs.mujoco.background_videos import videos_of
from lafp.envs.mujoco.distractors import DistractorConfig
from lafp.evaluate.acting.rollouts import Expert, rollout
from ray_jobs.studies.pipeline_config import PipelineConfig
from ray_jobs.studies.study_config import StudyConfig
from tests.conftest import SHARED
from tests.simulators import demonstrate, save_random_expert, skip_without
from tests.synthetic_video import moving_square, write_video

skip_without("dm_control")
EXPERT = SHARED / "data/experts/cheetah-run.pt"


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> DmcConfig:
    expert = save_random_expert(tmp_path_factory.mktemp("expert") / "random.pt")
    return DmcConfig(task="cheetah-run", expert=expert, size_px=32, episode_steps=10)


@pytest.fixture(scope="module")
def distracted(plain, tmp_path_factory) -> DmcConfig:
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(12):
        write_video(folder / f"{seed}.mp4", moving_square(20, seed=seed), fps=10)
    distractors = DistractorConfig(background=1.0, camera=0.2, color=0.2, videos=str(folder))
    return replace(plain, distractors=distractors, exploration=ExplorationConfig(share=0.5))


@pytest.mark.parametrize("study", ["distractors", "walker_distractors", "distractors_gpu"])
def test_the_studies_have_laoms_distractors(study):
    """One of at most 60 videos for a whole episode, camera and colours 0.1."""
    cfg = load_config(StudyConfig, f"configs/studies/dmc_{study}.yaml", []).pipeline
    seen, unseen = cfg.collect.env.distractors, cfg.collect.unseen_env.distractors
    assert (seen.background, seen.camera, seen.color) == (1, 0.1, 0.1)
    assert seen.video_hold_steps is None and seen.num_videos <= 60
    assert (seen.video_split, unseen.video_split) == ("train", "test")
    assert cfg.evaluate.env is None, "probes only"
    assert cfg.collect.labeled_env is None and cfg.collect.labeled_val_env is None


def test_rollouts_show_the_distractors_of_the_demonstrations():
    cfg = load_config(PipelineConfig, "configs/pipeline/dmc_cheetah_run.yaml", [])
    assert cfg.evaluate.env.distractors == cfg.collect.env.distractors


def test_fewer_videos_are_some_of_more_and_too_few_are_an_error(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.mp4").write_bytes(b"%d" % number)
    assert videos_of(str(tmp_path), "train", 8) == videos_of(str(tmp_path), "train")[:8]
    with pytest.raises(ConfigError, match=r"num_videos is 60, but .* holds only \d+ train videos"):
        videos_of(str(tmp_path), "train", 60)


def test_ten_steps_show_a_moving_cheetah_and_end_without_success(plain):
    frames, actions, result = demonstrate(Dmc(plain), [0, 1], 10)
    assert frames.shape == (11, 2, 32, 32, 3) and frames.dtype == np.uint8
    assert actions.shape == (10, 2, 6) and np.abs(actions).max() <= 1
    assert (frames[1:] != frames[:-1]).any(axis=(2, 3, 4)).all()
    assert result.success is None
    assert result.truncated.all() and not result.terminated.any()


def test_an_episode_is_the_same_in_any_batch(distracted):
    env = Dmc(distracted)
    together, actions, _ = demonstrate(env, [7, 8, 9], 10)
    alone, own_actions, _ = demonstrate(env, [8], 10)
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    np.testing.assert_array_equal(actions[:, 1], own_actions[:, 0])


@pytest.mark.parametrize("name", ["background", "camera", "color"])
def test_each_distractor_changes_pixels_and_nothing_else(plain, distracted, name):
    others = {other: 0.0 for other in ("background", "camera", "color") if other != name}
    one = replace(plain, distractors=replace(distracted.distractors, **others))
    clean, clean_actions, _ = demonstrate(Dmc(plain), [3], 10)
    noisy, noisy_actions, _ = demonstrate(Dmc(one), [3], 10)
    np.testing.assert_array_equal(clean_actions, noisy_actions)
    assert (clean != noisy).mean() > 0.01


def test_the_background_lies_behind_the_agent_and_nowhere_else(plain, distracted):
    only_video = replace(distracted.distractors, camera=0.0, color=0.0)
    clean, _, _ = demonstrate(Dmc(plain), [3], 1)
    noisy, _, _ = demonstrate(Dmc(replace(plain, distractors=only_video)), [3], 1)
    orange = (clean[..., 0] > 150) & (clean[..., 2] < 120)  # the cheetah
    assert orange.sum() > 40
    np.testing.assert_array_equal(clean[orange], noisy[orange])


def test_a_half_transparent_background_is_the_mean_of_sky_and_video(plain, distracted):
    def shown(share: float) -> np.ndarray:
        only_video = replace(distracted.distractors, background=share, camera=0.0, color=0.0)
        return demonstrate(Dmc(replace(plain, distractors=only_video)), [3], 1)[0].astype(float)

    sky, half, video = shown(0.0), shown(0.5), shown(1.0)
    assert (half != sky).any(-1).mean() > 0.3
    np.testing.assert_allclose(half, (sky + video) / 2, atol=0.5)


def test_training_and_test_videos_are_told_apart_by_content_alone(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.mp4").write_bytes(b"%d" % number)
    (tmp_path / "copy_of_7.mp4").write_bytes(b"7")
    train, test = videos_of(str(tmp_path), "train"), videos_of(str(tmp_path), "test")
    assert len(train) + len(test) == 40 and not set(train) & set(test)
    assert 3 < len(test) < 20


def test_a_held_video_changes_at_the_step_that_the_config_says(plain, tmp_path):
    for number in range(12):  # nothing moves in them
        shade = np.full((20, 64, 96, 3), 20 * number, np.uint8)
        write_video(tmp_path / f"{number}.mp4", shade, fps=10)
    held = DistractorConfig(background=1.0, videos=str(tmp_path), video_hold_steps=5)
    frames, _, _ = demonstrate(Dmc(replace(plain, distractors=held)), range(6), 10)
    sky = frames[:, :, :8].astype(float)
    jumps = np.abs(np.diff(sky, axis=0)).mean(axis=(2, 3, 4))
    # From step 4 to 5 and from 9 to 10, in those episodes that draw another one.
    assert np.flatnonzero(jumps.max(axis=1) > 5).tolist() == [4, 9]


def test_noise_is_in_the_share_of_the_episodes_that_the_config_says(plain):
    seeds = np.arange(24)
    small = replace(plain, size_px=8)
    greedy, noisy = Dmc(small), Dmc(replace(small, exploration=ExplorationConfig(share=0.5)))
    greedy.reset(seeds), noisy.reset(seeds)
    is_noisy = (greedy.expert() != noisy.expert()).any(axis=1)
    assert 4 < is_noisy.sum() < 20
    difference = noisy.expert() - greedy.expert()
    np.testing.assert_allclose(noisy.expert_noise(), difference, atol=1e-6)
    assert greedy.expert_noise() is None


def test_half_the_steps_with_action_repeat_two(plain):
    env = Dmc(replace(plain, action_repeat=2, episode_steps=None))
    assert (env.max_steps, env.fps) == (500, 50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "cheetah-fly"}, "cheetah-fly is not in the suite"),
        ({"expert": "nowhere.pt"}, "nowhere.pt is no file"),
        ({"task": "walker-run"}, "maps 17 observations to 6 actions, walker-run has 24 and 6"),
        ({"camera": 9}, "cheetah-run has 2 cameras"),
    ],
)
def test_what_does_not_fit_is_said_in_words(plain, change, message):
    with pytest.raises(ConfigError, match=message):
        Dmc(replace(plain, **change))


def test_nothing_of_a_checkpoint_is_unpickled(plain, tmp_path):
    torch.save({"actor_mean.0.weight": _Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ConfigError, match="holds no PPO actor"):
        Dmc(replace(plain, expert=str(tmp_path / "bomb.pt")))


class _Bomb:
    def __reduce__(self):
        return pytest.fail, ("A pickle of an untrusted file was executed.",)


def test_a_folder_without_test_videos_is_refused(plain, tmp_path):
    distractors = DistractorConfig(background=1.0, videos=str(tmp_path), video_split="test")
    with pytest.raises(ConfigError, match="holds no test video"):
        Dmc(replace(plain, distractors=distractors)).reset(np.array([0]))


@pytest.mark.skipif(not EXPERT.is_file(), reason="the experts are not here")
def test_the_real_expert_runs(plain):
    env = Dmc(replace(plain, expert=str(EXPERT), size_px=8, episode_steps=100))
    result = rollout(env, Expert(env), np.arange(2))
    assert (
        result.episode_return.min() > 20
    )  # it has to gather speed first; a random one stays below 5
    assert result.modes.shape == (2, 0) and result.success is None


def orange(frames: np.ndarray) -> np.ndarray:
    """Pixels of the cheetah's colour, which neither sky nor ground have: bool."""
    return frames[..., 0].astype(int) > frames[..., 2].astype(int) + 20


@pytest.mark.parametrize("multisampling", [False, True])
@pytest.mark.parametrize("camera", [0.0, 0.3])
def test_the_mask_covers_the_robot_and_nothing_else(plain, distracted, multisampling, camera):
    """With the restless camera too. The first mask must not change the frames that follow."""
    cfg = replace(
        plain,
        size_px=64,
        distractors=replace(distracted.distractors, background=0.0, color=0.0, camera=camera),
        render=replace(plain.render, multisampling=multisampling),
    )
    env, other = Dmc(cfg), Dmc(cfg)
    frames, masks = [env.reset(np.array([1, 2]))], [env.agent_mask()]
    for _ in range(6):
        frames.append(env.step(env.expert()).obs)
        masks.append(env.agent_mask())
    np.testing.assert_array_equal(frames, demonstrate(other, [1, 2], 6)[0])
    shown, masks = orange(np.stack(frames)), np.stack(masks)
    assert masks.shape == (7, 2, 64, 64) and masks.dtype == bool
    assert 0.01 < masks.mean() < 0.2 and (masks[1:] != masks[:-1]).any((2, 3)).all()
    assert (shown & masks).sum() / (shown | masks).sum() > 0.8, "edges and shades differ"


def test_the_mask_stays_where_a_video_hides_the_sky(plain, distracted):
    video = replace(plain, distractors=replace(distracted.distractors, camera=0.0, color=0.0))
    envs = Dmc(plain), Dmc(video)
    frames = [env.reset(np.array([4])) for env in envs]
    assert (frames[0] != frames[1]).mean() > 0.3
    np.testing.assert_array_equal(envs[0].agent_mask(), envs[1].agent_mask())


@pytest.mark.parametrize(
    ("domain", "task", "others"),
    [
        ("walker", "run", {"floor"}),
        ("ball_in_cup", "catch", {"ground", "ball"}),
        ("point_mass", "easy", {"ground", "target"}),  # moved through tendons
    ],
)
def test_the_agent_is_what_the_actuators_move(domain, task, others):
    from dm_control import suite

    model = suite.load(domain, task).physics.model
    is_agent = agent_geoms(model.ptr)
    names = {model.id2name(geom, "geom"): bool(is_agent[geom]) for geom in range(model.ngeom)}
    assert is_agent.any()
    assert {name for name in others if names[name]} == set()
    if domain == "walker":
        assert {name for name, is_own in names.items() if not is_own} == others
