"""A small pipeline on real Ray and DeepSpeed, run as its user runs it: as a process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "configs/pipeline/tiny.yaml"


def pipeline_command(storage: Path | str, *overrides: str, config: str = CONFIG) -> list[str]:
    return [
        *(sys.executable, "-m", "ray_jobs.pipeline", config, *overrides),
        *("--storage", str(storage), "--run-name", "run"),
    ]


def run_pipeline(storage: Path | str, *overrides: str, config: str = CONFIG) -> str:
    """Runs to the end; returns what was printed."""
    result = subprocess.run(
        pipeline_command(storage, *overrides, config=config),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout + result.stderr


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL to a process and all that it started: what a lost machine looks like."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The run directory of one finished tiny pipeline."""
    storage = tmp_path_factory.mktemp("storage")
    run_pipeline(storage)
    return storage / "run"
