"""GitHub's workflows name what there is: tests, targets of make, extras."""

import re
import tomllib

import pytest
import yaml

from tests.infra.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def commands(path) -> str:
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    return "\n".join(step["run"] for job in jobs for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_names_is_there(path):
    said, makefile = commands(path), (ROOT / "Makefile").read_text()
    assert all((ROOT / name).is_file() for name in re.findall(r"\btests/\S+", said))
    assert all(re.search(rf"^{name}:", makefile, re.M) for name in re.findall(r"make (\S+)", said))
    named = {extra for found in re.findall(r"'\.\[([\w,]+)\]'", said) for extra in found.split(",")}
    assert named <= EXTRAS.keys()


def test_the_tests_of_a_push_run_on_every_python_that_the_docs_name():
    said = (ROOT / ".github/workflows/ci.yml").read_text()
    assert set(re.findall(r'"(3\.\d+)"', said)) == {"3.11", "3.12", "3.13"}
