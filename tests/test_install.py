"""What an installation can do: the light core alone, and the one command."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.lafp.test_agent import write_decoder, write_policy
from tests.test_wheel import copy_sources

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE_ONLY = """
import sys

class CoreOnly:
    "Finds every module but those of the extras, as if these were not installed."

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)  # versions of packages

sys.meta_path = [CoreOnly(finder) for finder in sys.meta_path]
"""
MODULES = {"pillow": "PIL"}


def blocked() -> set[str]:
    """Modules of all extras: none of the core's packages brings one of them."""
    requirements = [
        r for extra in ("data", "train", "s3", "decord", "torchcodec") for r in extras(extra)
    ]
    return {MODULES.get(name, name) for name in requirements} | {"botocore"}


def extras(name: str) -> list[str]:
    return [
        re.match(r"[\w-]+", requirement)[0]
        for requirement in PROJECT["optional-dependencies"][name]
        if not requirement.startswith("lafp")
    ]


def run_with_the_core(code: str, *args: str) -> subprocess.CompletedProcess:
    text = CORE_ONLY.replace("{blocked}", repr(blocked())) + code
    return subprocess.run(
        [sys.executable, "-c", text, *args], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


def test_an_agent_acts_with_the_core_alone(tmp_path):
    write_policy(tmp_path, "latent_flow")
    write_decoder(tmp_path, "mine", "latent_flow")
    acts = (
        "import lafp, lafp.lam, numpy\n"
        "from lafp.objectives import OBJECTIVES\n"
        "from lafp.policies import POLICIES\n"
        "for registry in (OBJECTIVES, POLICIES):\n"
        "    [registry.get(name) for name in registry.names()]\n"
        f"agent = lafp.Agent.load({str(tmp_path)!r}, policy='latent_flow', action_decoder='mine')\n"
        "action = agent.act(numpy.zeros((12, 16, 3), numpy.uint8))\n"
        "print(numpy.asarray(action).shape)\n"
    )
    done = run_with_the_core(acts)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(np.zeros(3).shape)


@pytest.mark.slow
def test_an_agent_acts_where_only_the_core_is_installed(tmp_path):
    """Installs as `pip install .` does, into a fresh environment. Downloads torch."""
    write_policy(tmp_path / "run", "latent_flow")
    write_decoder(tmp_path / "run", "mine", "latent_flow")
    copy_sources(tmp_path / "checkout")
    python = tmp_path / "venv/bin/python"
    install = [python, "-m", "pip", "install", "-q", "-c", "constraints.txt", "."]
    acts = (
        "import sys; from importlib.metadata import distributions\n"
        "import lafp, numpy\n"
        "agent = lafp.Agent.load('run', policy='latent_flow', action_decoder='mine')\n"
        "action = agent.act(numpy.zeros((12, 16, 3), numpy.uint8))\n"
        "assert lafp.__file__.startswith(sys.prefix), lafp.__file__\n"
        "print(numpy.asarray(action).shape, {d.name.lower() for d in distributions()})\n"
    )
    foreign = ("PYTHON", "PYTEST", "VIRTUAL_ENV")
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    try:
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
        subprocess.run(install, cwd=tmp_path / "checkout", env=env, check=True, timeout=2400)
        done = subprocess.run(
            [python, "-c", acts], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
    finally:
        shutil.rmtree(tmp_path / "venv", ignore_errors=True)  # 1 GB and more
    assert done.returncode == 0, done.stderr
    shape, _, packages = done.stdout.partition(" {")
    assert shape == str(np.zeros(3).shape)
    brought = set(re.findall(r"'([\w.-]+)'", packages))
    assert "torch" in brought and not brought & {"ray", "av", "pyarrow", "deepspeed", "boto3"}


def test_the_agent_imports_little_beyond_torch():
    """Modules are counted, because times depend on the machine and on what runs beside."""
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import lafp; lafp.Agent; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert "lafp.agent" in modules and len(modules) < 150, modules
    heavy = {"omegaconf", "pyarrow", "ray", "av", "scipy", "pandas", "boto3", "huggingface_hub"}
    assert not heavy & {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("preprocess", "Error: preprocess needs packages that are not installed: av, PIL, "
         "pyarrow. Install them with: pip install 'lafp[data]'"),
        ("train-lam", "pip install 'lafp[train]'"),
        ("doctor", "pip install 'lafp[data]'"),
        ("takedown", "pip install 'lafp[data]'"),
        ("view", "pip install 'lafp[data]'"),
        ("to-lerobot", "pip install 'lafp[data]'"),
        ("push", "pip install 'lafp[data]'"),
    ],
)  # fmt: skip
def test_a_job_without_its_extra_says_what_to_install(job, words):
    runs = "from ray_jobs.command import main\nmain()\n"
    arguments = {
        "doctor": [],
        "takedown": ["output=runs/x", "video_id=y"],
        "view": ["runs/x"],
        "to-lerobot": ["runs/x", "out"],
        "push": ["runs/x/shards/videos", "hf://datasets/user/name"],
    }
    config = [f"configs/{job.replace('-', '_')}/videos.yaml"]
    done = run_with_the_core(runs, job, *arguments.get(job, config))
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert run_with_the_core(runs, job, "--help").returncode == 0


def test_s3_without_its_extra_says_what_to_install():
    reads = "from lafp import storage\nstorage.read_bytes('s3://bucket/key')\n"
    done = run_with_the_core(reads)
    assert "S3 needs the package boto3" in done.stderr and "pip install 'lafp[s3]'" in done.stderr


@pytest.mark.parametrize("name", ["preprocess", "train-lam", "train_lam", "doctor"])
def test_the_command_is_the_module(name):
    by_command = lafp_command(name, "--help")
    module = [sys.executable, "-m", f"ray_jobs.{name.replace('-', '_')}", "--help"]
    by_module = subprocess.run(module, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert by_command.stdout == by_module.stdout and by_command.returncode == 0


def test_the_command_lists_all_jobs_and_helps_with_a_typo():
    listed = lafp_command("--help").stdout
    assert all(f"\n  {job} " in listed for job in ("pipeline", "train-policy", "init", "doctor"))
    typo = lafp_command("pre-process")
    assert typo.returncode == 2 and "Did you mean 'preprocess'?" in typo.stderr
    assert lafp_command("--version").stdout.split()[0] == "lafp"


def test_init_copies_the_configs_once(tmp_path):
    assert lafp_command("init", str(tmp_path)).returncode == 0
    copied = {path.relative_to(tmp_path) for path in (tmp_path / "configs").rglob("*.yaml")}
    assert copied == {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    again = lafp_command("init", str(tmp_path))
    assert again.returncode == 2 and "exists" in again.stderr


def lafp_command(*args: str) -> subprocess.CompletedProcess:
    command = Path(sys.executable).parent / "lafp"
    return subprocess.run(
        [str(command), *args], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
