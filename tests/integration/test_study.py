"""A study on real Ray, run as its user runs it: killed in the middle, and finished."""

import subprocess
import sys
import time

import pandas as pd
import pytest

import lafp
from tests.integration.conftest import ROOT, kill_tree

COMMAND = [sys.executable, "-m", "ray_jobs.study", "configs/studies/tiny.yaml", "--storage"]


@pytest.mark.slow
def test_a_study_killed_in_the_middle_goes_on_where_it_was(tmp_path):
    """kill -9 of driver and workers once a policy is trained; then the same command again."""
    study = tmp_path / "tiny"
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 900
    while not list(study.glob("stages/policy/*/*/summary.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    kill_tree(process)
    finished = {path: path.stat().st_mtime_ns for path in study.glob("stages/**/summary.json")}
    assert not (study / "summary.json").exists()

    page = tmp_path / "results.md"
    again = subprocess.run(
        [*COMMAND, str(tmp_path), "--page", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    results = pd.read_parquet(study / "results.parquet")
    success = results[(results.metric == "success") & (results.method == "latent_flow")]
    assert set(success.variant) == {"all_labels", "half_the_labels"}
    assert set(success.label_fraction) == {1.0, 0.5}
    assert (study / "plot.png").exists()
    assert "python -m ray_jobs.study configs/studies/tiny.yaml\n" in page.read_text()
    assert (study / "table.md").read_text() in page.read_text()

    # A run that shares its stages is a run like any other.
    run = study / "runs" / "half_the_labels-seed_0"
    agent = lafp.Agent.load(str(run), action_decoder="latent_flow")
    assert agent.action_decoder.action.dim == 2
    assert (run / "report.html").exists()
