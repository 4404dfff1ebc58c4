"""Every shipped config loads, and no two of a job are the same run."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lafp.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
PATHS = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.stem != "base")


def load(path: Path) -> Any:
    job = import_module(f"ray_jobs.{path.parent.name}").JOB
    return load_config(job.schema, path)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_loads_with_the_schema_of_its_job(path):
    load(path)


def test_no_two_configs_of_a_job_are_the_same_run():
    seen: dict[Any, Path] = {}
    for path in PATHS:
        cfg = load(path)
        assert cfg not in seen, f"{path.name} resolves to the same run as {seen[cfg].name}."
        seen[cfg] = path
