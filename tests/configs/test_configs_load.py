"""Every shipped config loads, and no two of a job are the same run."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lafp.config import load_config
from ray_jobs.studies.study_config import cells

CONFIGS = Path(__file__).parents[2] / "configs"
SECTIONS = ("envs",)
"""Folders whose files are sections of others' configs."""
PATHS = sorted(
    path
    for path in CONFIGS.glob("*/*.yaml")
    if path.stem != "base" and path.parent.name not in SECTIONS
)

JOBS = {"studies": "study"}
"""Folder of configs -> its job, where they differ."""


def load(path: Path) -> Any:
    folder = path.parent.name
    job = import_module(f"ray_jobs.{JOBS.get(folder, folder)}").JOB
    return load_config(job.schema, path)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_loads_with_the_schema_of_its_job(path):
    load(path)


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_overrides_of_every_study_fit_its_pipeline(path):
    assert cells(load(path))


def test_no_two_configs_of_a_job_are_the_same_run():
    seen: dict[Any, Path] = {}
    for path in PATHS:
        cfg = load(path)
        assert cfg not in seen, f"{path.name} resolves to the same run as {seen[cfg].name}."
        seen[cfg] = path
