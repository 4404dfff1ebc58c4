"""The command `lafp compare`, as a process."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.synthetic_run import write_video_run

ROOT = Path(__file__).parents[2]


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ray_jobs.compare", *args]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def test_it_prints_a_summary_and_writes_the_page_to_the_folder_it_runs_in(tmp_path):
    write_video_run(tmp_path / "runs/first")
    shutil.copytree(tmp_path / "runs/first", tmp_path / "runs/second")
    done = run("runs/first", "runs/second", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs: first | second\n")
    assert done.stdout.endswith(f"page: {tmp_path / 'compare.html'}\n")
    assert "first and second" in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["runs/gone", "runs/lost"], "No run folder at 'runs/gone'"),
        (["runs/gone"], "One run is named, runs/gone. Name at least two."),
    ],
)
def test_a_wrong_command_line_is_one_line(tmp_path, args, said):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "compare.html").exists()
