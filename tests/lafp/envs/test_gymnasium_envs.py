"""Our environments in Gymnasium's registry."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")

from gymnasium.utils.env_checker import check_env  # noqa: E402

import lafp.envs.gymnasium_envs  # noqa: E402, F401, registers them
from lafp.config import ConfigError  # noqa: E402
from lafp.envs import ENVS  # noqa: E402
from lafp.envs.slalom import Slalom, SlalomConfig  # noqa: E402

ROOT = Path(__file__).parents[3]
LEVEL = "BabyAI-GoToRedBallNoDists-v0"


def made(name: str, **config):
    if name == "lafp/Minigrid-v0":
        pytest.importorskip("minigrid", reason="minigrid is not installed")
        config["task"] = LEVEL
    return gymnasium.make(name, **config)


def test_every_environment_has_an_id():
    ids = {f"lafp/{name.capitalize()}-v0" for name in ENVS.names()}
    assert ids == {name for name in gymnasium.registry if name.startswith("lafp/")}


@pytest.mark.parametrize("name", ["lafp/Slalom-v0", "lafp/Minigrid-v0"])
def test_gymnasiums_checker_finds_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = made(name, render_mode="rgb_array")
        check_env(env.unwrapped)
    env.close()


def test_an_episode_is_the_one_that_its_seed_has_in_lafp():
    env, own = made("lafp/Slalom-v0", distractors=True), Slalom(SlalomConfig(distractors=True))
    obs, _ = env.reset(seed=7)
    np.testing.assert_array_equal(obs, own.reset(np.array([7]))[0])
    done = False
    while not done:
        action = own.expert()[0]
        obs, reward, terminated, truncated, info = env.step(action)
        result = own.step(action[None])
        np.testing.assert_array_equal(obs, result.obs[0])
        assert (terminated, truncated) == (result.terminated[0], result.truncated[0])
        assert reward == result.reward[0] and info == {"is_success": result.success[0]}
        done = terminated or truncated
    assert info["is_success"]


def test_episodes_after_a_seed_differ_and_are_the_same_again():
    env = made("lafp/Slalom-v0")

    def three():
        return [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]]

    first, second = three(), three()
    np.testing.assert_array_equal(first, second)
    assert (first[0] != first[1]).any() and (first[1] != first[2]).any()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasiums_vectors_step_them_side_by_side_and_start_them_anew(mode):
    vector = gymnasium.make_vec("lafp/Slalom-v0", num_envs=2, vectorization_mode=mode)
    try:
        obs, _ = vector.reset(seed=3)
        own = Slalom(SlalomConfig()).reset(np.array([3, 4]))
        np.testing.assert_array_equal(obs, own)
        num_ends = 0
        for _ in range(40):
            _, _, terminated, truncated, _ = vector.step(np.zeros((2, 2), np.float32))
            num_ends += (terminated | truncated).sum()
        assert num_ends == 2
    finally:
        vector.close()


def test_a_process_needs_no_import_of_ours_when_the_id_names_the_module():
    code = (
        "import gymnasium\n"
        "env = gymnasium.make('lafp.envs.gymnasium_envs:lafp/Slalom-v0')\n"
        "print(env.reset(seed=0)[0].shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "(48, 48, 3)", done.stderr


def test_a_wrong_field_is_an_error_that_names_it():
    with pytest.raises(ConfigError, match="distractor"):
        gymnasium.make("lafp/Slalom-v0", distractor=True)


@pytest.mark.parametrize("package", ["lafp.envs", "lafp"])
def test_gymnasium_is_not_imported_before_it_is_asked_for(package):
    code = f"import sys, {package}; sys.exit('gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
