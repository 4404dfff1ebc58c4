"""What Dockerfile.cpu does, done without a container engine, as far as that goes.

A fresh virtual environment stands for the image's /usr/local, a folder for its file system. Left
out: the base image, apt's installation (its packages are looked up), useradd and USER.
"""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.infra.conftest import INFRA, ROOT
from tests.infra.test_docker import instructions, stages

DOCKERFILE = INFRA / "docker/Dockerfile.cpu"
TORCH_INDEX = "--index-url https://download.pytorch.org/whl/cpu"


def apt_packages(path: Path) -> set[str]:
    commands = [rest for key, rest in instructions(path) if key == "RUN" and "apt-get" in rest]
    named = re.findall(r"--no-install-recommends ([^&]+)", " ".join(commands))
    return set(" ".join(named).split())


def test_debian_has_the_packages_that_the_cpu_image_installs():
    if not shutil.which("apt-cache"):
        pytest.skip("no Debian")
    for package in apt_packages(DOCKERFILE):
        shown = subprocess.run(["apt-cache", "show", package], capture_output=True, text=True)
        if shown.returncode and not list(Path("/var/lib/apt/lists").glob("*Packages*")):
            pytest.skip("apt has no lists here; `apt-get update` fetches them")
        assert shown.returncode == 0, shown.stderr


def can_reach(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except OSError:
        return False
    return True


class Image:
    """The image's file system below a folder, and a shell in it that knows nothing of its host."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        (folder / "home").mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "local"], check=True)
        # Without the host's compilers: the image has none.
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in ("sh", "bash", "touch", "env", "uname", "ps", "cat", "rm", "ls", "which"):
            if found := shutil.which(name):
                (self.tools / name).symlink_to(found)
        # How to reach a package index is the host's business, like its network.
        network = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name.lower().endswith("_proxy") or "CERT" in name
        }
        self.variables = network | {
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'local/bin'}:{self.tools}",
            "LANG": "C.UTF-8",
        }
        self.workdir = self.root

    def path(self, name: str) -> Path:
        return self.root / name.removeprefix("/")

    def do(self, key: str, rest: str) -> None:
        if key == "WORKDIR":
            self.workdir = self.path(rest)
            self.workdir.mkdir(parents=True, exist_ok=True)
        elif key == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for source in sources:
                self.copy(ROOT / source, self.workdir / target)
        elif key == "ENV":
            for name, value in re.findall(r"(\w+)=(\S+)", rest):
                value = value.replace("$LAFP_GIT_REVISION", "0" * 40)
                self.variables[name] = str(self.path(value)) if value[0] == "/" else value
        elif key == "RUN" and "apt-get" not in rest:
            self.run(rest)

    def copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)

    def run(self, command: str, timeout_s: float = 2400) -> str:
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.workdir,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


@pytest.mark.slow
def test_the_steps_of_the_cpu_image_give_an_environment_in_which_the_pipeline_runs(tmp_path):
    """Downloads all dependencies."""
    image = Image(tmp_path)
    for stage in stages(DOCKERFILE):
        for key, rest in stage:
            if TORCH_INDEX in rest and not can_reach(TORCH_INDEX.split()[1]):
                rest = rest.replace(TORCH_INDEX, "")  # the index that there is has to do
            image.do(key, rest)
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    for package in ("ray", "torch", "deepspeed", "av", "numpy"):
        code = f"from importlib.metadata import version; print(version('{package}'))"
        assert image.run(f'python -c "{code}"').split("+")[0].strip() == pinned[package]
    example = re.search(r"REGISTRY/lafp:cpu (python .*)", (INFRA / "README.md").read_text())
    assert example
    image.run(example[1].replace("/tmp/runs", str(tmp_path / "runs")))
    assert (tmp_path / "runs/tiny/report.html").exists()
