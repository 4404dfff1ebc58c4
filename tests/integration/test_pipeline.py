"""The whole system, small: demonstrations -> shards -> LAM -> policies -> decoders -> report."""

import json
import subprocess
import time

import pandas as pd
import pytest
import yaml

from lafp.config import load_config
from lafp.runs.run_dir import RunDir
from ray_jobs.pipeline import steps
from ray_jobs.studies.pipeline_config import PipelineConfig
from tests.integration.conftest import CONFIG, ROOT, kill_tree, pipeline_command, run_pipeline

STAGES = [
    "demonstrations",
    "shards/videos",
    "shards/labeled",
    "lam",
    "policy/latent_flow",
    "policy/latent_bc",
    "decoder/latent_flow",
    "decoder/latent_bc",
    "policy/bc",
    "evaluation",
]


def test_every_stage_explains_itself(finished_run):
    for stage in STAGES:
        folder = finished_run / stage
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["packages"]["ray"]
        assert provenance["git_revision"]
        assert yaml.safe_load((folder / "config.yaml").read_text())
        assert json.loads((folder / "summary.json").read_text())["wall_s"] >= 0


def test_every_stage_tells_what_came_of_it_and_no_name_of_a_metric(finished_run):
    run, config = RunDir(str(finished_run)), load_config(PipelineConfig, ROOT / CONFIG)
    for job, section in steps(config):
        stage = run.stage(job.stage(section))
        summary = stage.summary()
        text = "\n".join(job.tell(section, stage, summary))
        assert text, stage.name
        assert "nan" not in text.split(), stage.name
        internal = [name for name in summary if "/" in name or name in ("mfu", "lr", "wall_s")]
        assert not [name for name in internal if name in text], stage.name


def test_the_lam_was_trained_by_deepspeed_on_two_workers(finished_run):
    config = yaml.safe_load((finished_run / "lam" / "config.yaml").read_text())["train"]
    assert config["engine"]["name"] == "deepspeed"
    assert config["num_workers"] == 2
    lines = (finished_run / "lam" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["step"] == config["num_steps"]
    assert any("probe/r2" in json.loads(line) for line in lines)


def test_results_are_in_long_form_with_one_success_rate_per_method(finished_run):
    results = pd.read_parquet(finished_run / "evaluation" / "results.parquet")
    success = results[results.metric == "success"]
    assert set(success.method) >= {"latent_bc", "latent_flow", "behavior_cloning"}
    assert success.value.between(0, 1).all()
    assert (success.n > 0).all()


def test_the_report_is_one_self_contained_file(finished_run):
    html = (finished_run / "report.html").read_text()
    assert "data:image/png;base64," in html
    assert 'src="http' not in html
    assert '<link rel="stylesheet"' not in html


def test_a_second_run_finds_everything_done_in_seconds(finished_run):
    start = time.monotonic()
    output = run_pipeline(finished_run.parent)
    assert "complete, nothing to do" in output
    assert time.monotonic() - start < 30


def test_the_same_folder_refuses_another_config(finished_run):
    result = subprocess.run(
        pipeline_command(finished_run.parent, "train_lam.train.optim.lr=0.5"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "optim.lr was" in result.stderr


@pytest.mark.slow
def test_a_pipeline_killed_in_every_stage_finishes_without_redoing_finished_stages(tmp_path):
    """kill -9 of driver and workers as soon as each stage has begun; then one undisturbed run."""
    folder = tmp_path / "run"
    for stage in STAGES:
        process = subprocess.Popen(
            pipeline_command(tmp_path),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 600
        while not (folder / stage / "provenance.json").exists():
            assert process.poll() is None and time.monotonic() < deadline, stage
            time.sleep(0.2)
        time.sleep(2)
        kill_tree(process)
    done_before = {
        stage: (folder / stage / "summary.json").stat().st_mtime_ns
        for stage in STAGES
        if (folder / stage / "summary.json").exists()
    }
    assert "lam" in done_before
    run_pipeline(tmp_path)
    for stage, mtime in done_before.items():
        assert (folder / stage / "summary.json").stat().st_mtime_ns == mtime, stage
    assert (folder / "report.html").exists()
