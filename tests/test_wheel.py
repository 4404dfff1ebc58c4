"""The wheel and the source package: what they hold, and a stranger who installs the wheel."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("lafp", "data_pipelines", "ray_jobs", "configs")
FILES = ("constraints.txt", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
COMPILED = {f"lafp/video/damage/{name}_entropy.abi3.so" for name in ("vp8", "vp9", "mjpeg", "hevc")}


def test_wheel_and_source_package_hold_the_same(built, tmp_path):
    wheel, source = built
    # Stable ABI, so that one wheel serves every Python.
    assert "-cp311-abi3-" in wheel.name
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    files = contents(wheel)
    assert {f"lafp/{name}" for name in wanted} <= files.keys()
    assert any(name.startswith("lafp/report/templates/") for name in files)
    pages = {path.name for path in (ROOT / "lafp/view/pages").iterdir()}
    assert pages == {Path(name).name for name in files if name.startswith("lafp/view/pages/")}
    assert {name.partition("/")[0] for name in files} == {
        *("lafp", "data_pipelines", "ray_jobs"),
        next(name for name in files if name.endswith("/METADATA")).partition("/")[0],
    }

    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert not (unpacked / "tests").exists()  # a part of them would run nowhere
    again = contents(build(unpacked, "wheel"))
    assert again.keys() == files.keys()
    changed = {name for name in files if again[name] != files[name]}
    assert not {name for name in changed if not name.endswith((".so", "/RECORD"))}


def test_a_machine_without_a_compiler_builds_a_wheel_that_installs(tmp_path):
    copy_sources(tmp_path)
    wheel = build(tmp_path, "wheel", CC=str(tmp_path / "no-compiler"))
    assert not COMPILED & contents(wheel).keys()
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = "from lafp.video.damage import vp8_partitions as p; print(p.__file__, p.parser())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(target)},
        cwd=target,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == [str(target / "lafp/video/damage/vp8_partitions.py"), "None"]


@pytest.mark.slow
def test_a_stranger_installs_the_wheel_and_runs_the_tiny_pipeline(tmp_path):
    """The commands of docs/install.md in a fresh environment, then the result loaded there."""
    (section,) = re.findall(
        r"\n## Try it in a fresh environment\n(.*?)\n## ",
        (ROOT / "docs/install.md").read_text(),
        re.DOTALL,
    )
    (commands,) = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    commands = commands.replace("python3.11", sys.executable)
    checkout = tmp_path / "checkout"
    copy_sources(checkout)
    # Nothing of this environment: neither its packages, nor its place on PATH, nor its cluster.
    foreign = ("PYTHON", "PYTEST", "VIRTUAL_ENV")
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    env |= {"HOME": str(tmp_path), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    python = tmp_path / "lafp-trial/.venv/bin/python"
    try:
        run = ["bash", "-euo", "pipefail", "-c", commands]
        done = subprocess.run(
            run, cwd=checkout, env=env, capture_output=True, text=True, timeout=3000
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        finished = tmp_path / "lafp-trial/runs/tiny"
        assert (finished / "report.html").exists()
        code = (
            "import lafp, numpy\n"
            "agent = lafp.Agent.load('runs/tiny', action_decoder='latent_flow')\n"
            "agent.reset()\n"
            "print(lafp.__file__, agent.act(numpy.zeros((48, 48, 3), numpy.uint8)).shape)\n"
        )
        acted = subprocess.run(
            [python, "-c", code], cwd=finished.parents[1], env=env, capture_output=True, text=True
        )
        assert str(python.parents[1]) in acted.stdout and "(2,)" in acted.stdout, acted.stderr
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)  # 2 GB


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """A copy of what is packed, because the build writes into its folder."""
    folder = tmp_path_factory.mktemp("source")
    copy_sources(folder)
    return folder


@pytest.fixture(scope="module")
def built(copied) -> tuple[Path, Path]:
    return build(copied, "wheel"), build(copied, "sdist")


def copy_sources(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    unwanted = shutil.ignore_patterns("__pycache__", "*.so")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)


def build(folder: Path, kind: str, **env: str) -> Path:
    """Builds a wheel or sdist as pip does, but with the setuptools of this environment."""
    code = f"from setuptools import build_meta as b; print(b.build_{kind}('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return folder / "dist" / done.stdout.split()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
