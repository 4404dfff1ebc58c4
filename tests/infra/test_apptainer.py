"""The definition of the Apptainer image, read by the rules of Apptainer's own parser.

Those are in ``pkg/build/types/parser/deffile.go`` of https://github.com/apptainer/apptainer at
commit 917d66577963ca297352a22e13c86f1748ddc645.
"""

import re
import subprocess

import pytest

from tests.infra.conftest import INFRA, ROOT
from tests.infra.test_docker import DOCKERFILES, instructions, stages
from tests.test_wheel import FILES, SOURCES

DEFINITION = INFRA / "slurm/lafp.def"
SECTIONS = {
    *("help", "setup", "files", "labels", "environment", "pre", "post", "runscript", "test"),
    *("startscript", "arguments"),
}


def parts() -> tuple[dict[str, str], dict[str, str]]:
    """Header and sections of the definition, by name; names of sections in lower case."""
    head, *sections = re.split(r"^\s*%", DEFINITION.read_text(), flags=re.MULTILINE)
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("#")]
    header = dict(re.fullmatch(r"(\w+): *(\S+)", line).groups() for line in lines)
    bodies = [section.partition("\n") for section in sections]
    names = [name.strip().lower() for name, _, _ in bodies]
    assert len(set(names)) == len(names)
    return header, {name: body for name, (_, _, body) in zip(names, bodies, strict=True)}


def commands(body: str) -> list[str]:
    return [line.strip() for line in body.splitlines() if line.strip() and "# " not in line[:8]]


def test_every_section_is_one_that_apptainer_knows():
    header, sections = parts()
    assert header.keys() == {"Bootstrap", "From"} and header["Bootstrap"] == "docker"
    assert sections.keys() <= SECTIONS
    assert {"files", "post", "environment", "runscript", "test"} <= sections.keys()


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_a_shell_can_read_the_scripts(name):
    body = parts()[1][name].replace("{{ LAFP_GIT_REVISION }}", "abc")
    read = subprocess.run(["sh", "-n"], input=body, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


def test_what_is_filled_in_has_a_default():
    _, sections = parts()
    asked = set(re.findall(r"{{\s*(\w+)\s*}}", DEFINITION.read_text()))
    assert asked == {line.split("=")[0] for line in commands(sections["arguments"])}


def test_it_copies_what_a_wheel_is_built_from():
    copied = [line.split() for line in commands(parts()[1]["files"])]
    assert all(target == "/build/" for _, target in copied)
    sources = [source for source, _ in copied]
    assert sorted(sources) == sorted({*SOURCES, *FILES, "constraints.txt"})
    assert all((ROOT / source).exists() for source in sources)


def test_python_and_packages_are_those_of_the_docker_image():
    header, sections = parts()
    docker = DOCKERFILES["cuda"]
    assert header["From"] == stages(docker)[0][0][1].split()[0]

    def installs(lines: list[str]) -> list[str]:
        return [line.strip() for line in lines if "pip install" in line]

    of_docker = [c for key, rest in instructions(docker) if key == "RUN" for c in rest.split("&&")]
    assert installs(commands(sections["post"])) == installs(of_docker) != []
    (checks_cuda,) = [line for line in of_docker if "torch.version.cuda" in line]
    assert checks_cuda.strip() in commands(sections["post"])


def test_the_compiler_does_not_stay():
    lines = commands(parts()[1]["post"])
    (installed,) = [line for line in lines if line.startswith("apt-get install")]
    (purged,) = [line for line in lines if line.startswith("apt-get purge")]
    assert "--no-install-recommends" in installed and "--auto-remove" in purged
    names = [re.findall(r" ([a-z][\w-]*)", line)[1:] for line in (installed, purged)]
    assert names[0] == names[1] == ["gcc", "libc6-dev"]
    assert lines[-1].endswith("/var/lib/apt/lists/*")
