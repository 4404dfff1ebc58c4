"""The command `lafp to-lerobot`."""

import subprocess
import sys
from pathlib import Path

import pytest

from lafp.config import ConfigError
from lafp.runs.run_dir import RunDir
from ray_jobs import to_lerobot as command
from tests.data_pipelines.to_lerobot.lerobot_run import write_run, z_of
from tests.synthetic_latents import write_latents

ROOT = Path(__file__).parents[2]


def run(*args) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "ray_jobs.to_lerobot", *map(str, args)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_it_writes_a_dataset_once_and_says_so(tmp_path):
    write_run(tmp_path / "run")
    done = run(tmp_path / "run", tmp_path / "set")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 episodes, ") and str(tmp_path / "set") in done.stdout
    assert (tmp_path / "set/meta/info.json").is_file()
    again = run(tmp_path / "run", tmp_path / "set")
    assert again.stdout == f"complete already: {tmp_path}/set\n"


def test_a_run_without_latents_is_told_how_to_make_them(tmp_path):
    (tmp_path / "run").mkdir()
    done = run(tmp_path / "run", tmp_path / "set")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {tmp_path}/run has no latent actions.")
    assert "lafp label-latents" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("key", ["index", "observation.state", "a/b", "", "9", "a."])
def test_names_that_no_feature_may_have_are_refused(key):
    with pytest.raises(ConfigError, match="--latent-key is"):
        command._check_key(key)


def test_one_of_several_latent_sets_must_be_named(tmp_path):
    made = write_run(tmp_path / "run")
    write_latents(made, "videos", "other", z_of)
    with pytest.raises(ConfigError, match=r"several latent sets\. Take --latents other or videos"):
        command.latents_of(made, None)
    with pytest.raises(ConfigError, match="no latent set 'third'"):
        command.latents_of(made, "third")
    assert command.latents_of(made, "other") == made.stage("latents/other").uri


def test_shards_elsewhere_must_be_named(tmp_path):
    made = write_run(tmp_path / "run")
    latents = made.stage("latents/videos").uri
    assert command.shards_of(made, latents) == made.stage("shards/videos").uri
    with pytest.raises(ConfigError, match="--shards URI"):
        command.shards_of(RunDir(str(tmp_path / "elsewhere")), latents)
