"""The commands of README and docs name jobs and configs that are there."""

import importlib
import re
from pathlib import Path

import pytest

from ray_jobs.core.job import Job

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "infra/README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLE = (ROOT / "README.md").read_text().partition("| Job | Does |")[2].partition("\n\n")[0]
JOBS = re.findall(r"^\| `(\w+)` \|", TABLE, re.MULTILINE)
WITHOUT_CONFIG = {"doctor"}


@pytest.mark.parametrize("name", JOBS)
def test_every_job_of_the_table_is_a_command_that_starts_like_the_others(name):
    """Hence each can be submitted: what joins the cluster and checks the storage is common."""
    module = importlib.import_module(f"ray_jobs.{name}")
    source = Path(str(module.__file__)).read_text()
    if name in WITHOUT_CONFIG:
        assert source.rstrip().endswith("main()") and "connect(" in source
    else:
        assert isinstance(module.JOB, Job) and module.JOB.name == name
        assert source.rstrip().endswith("main(JOB, COMMAND_LINE)")


def test_no_job_is_missing_from_the_table():
    commands = {
        path.stem
        for path in (ROOT / "ray_jobs").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert commands == {*JOBS, "takedown"}  # that one has a section of its own


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_configs_and_modules_that_a_page_names_are_there(page):
    text = page.read_text()
    for config in re.findall(r"(?<![\w/])(?:/app/)?(configs/[\w./-]+\.yaml)", text):
        assert (ROOT / config).is_file(), f"{page.name} names {config}"
    for module in re.findall(r"python -m ((?:ray_jobs|tests)\.[a-z_][\w.]*)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{page.name} names {module}"
