"""Studies over the share of labels, and trials: how they stop and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import ray

from lafp.config import ConfigError, load_config
from lafp.evaluate.rows.results import Result, Subject, write_results
from lafp.runs.run_dir import RunDir
from lafp.train.tasks.behavior_cloning import TrainBcConfig
from ray_jobs import study
from ray_jobs.core.job import JobError, execute
from ray_jobs.studies import engine
from ray_jobs.studies.stage_graph import run_dir
from ray_jobs.studies.stopped_early import STOPPED_EARLY, was_stopped_early
from ray_jobs.studies.study_config import StudyConfig, cells
from tests.processes import kill_one_below

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TINY = CONFIGS / "studies/tiny_labels.yaml"


def config(*overrides):
    return load_config(StudyConfig, TINY, overrides)


def test_every_value_meets_every_fraction_and_seed():
    names = [cell.name for cell in cells(config("seeds=[3,5]"))]
    assert [cell.seed for cell in cells(config("seeds=[3,5]"))] == [3] * 4 + [5] * 4
    assert names == [
        f"{anchor}-labels_{fraction}-seed_{seed}"
        for seed in (3, 5)
        for anchor in ("interpolated", "idm_latents")
        for fraction in ("0.5", "1")
    ]


def test_the_fraction_is_that_of_every_decoder_and_the_seed_draws_the_subset():
    for cell in cells(config("seeds=[3]")):
        decoders = cell.pipeline.train_decoder
        assert {d.label_fraction for d in decoders} == {cell.label_fraction}
        assert {d.label_seed for d in decoders} == {3}


def test_the_baseline_on_labels_alone_has_the_labels_of_the_action_decoders():
    bc = (CONFIGS / "train_bc/slalom.yaml").as_posix()
    cfg = replace(
        config("seeds=[3]"),
        pipeline=replace(config().pipeline, train_bc=(load_config(TrainBcConfig, bc),)),
    )
    for cell in cells(cfg):
        (baseline,) = cell.pipeline.train_bc
        assert (baseline.label_fraction, baseline.label_seed) == (cell.label_fraction, 3)


def test_scope_lam_takes_fractions_to_the_supervision_and_0_switches_it_off():
    cfg = config(
        "labels={fractions: [0, 0.5], scope: lam}", "pipeline.train_lam.supervision.weight=0.1"
    )
    unlabeled, half = (cell.pipeline for cell in cells(cfg)[:2])
    assert unlabeled.train_lam.supervision.weight == 0
    assert half.train_lam.supervision.label_fraction == 0.5
    assert {d.label_fraction for d in half.train_decoder} == {1.0}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["labels.fractions=[0,1]"], "an action decoder needs labels"),
        (["labels.fractions=[0.5,0.5]"], "different shares"),
        (["labels.fractions=[1.5]"], r"in \[0, 1\]"),
        (
            [f"pipeline.{part}=[]" for part in ("train_decoder", "train_bc", "evaluate.methods")],
            "add train_decoder or train_bc",
        ),
        (["stall_timeout_min=0"], "must be positive"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        config(*overrides)


def test_scope_lam_without_supervision_is_refused():
    with pytest.raises(ConfigError, match=r"sees none in any run: set pipeline\.train_lam"):
        cells(config("labels.scope=lam", "pipeline.train_lam.supervision.weight=0"))


def test_the_plan_says_what_is_shared():
    text = "\n".join(study.plan(config(), RunDir("unused")))
    assert "4 runs: interpolated-labels_0.5-seed_0, interpolated-labels_1-seed_0" in text
    assert "shared stages first (10), then the rest of each run" in text
    assert "train_lam: 1 instead of 4" in text and "train_policy: 2 instead of 8" in text


def test_runs_keep_their_seeds_where_all_read_one_finished_lam(tmp_path):
    """The rows of that LAM come first, and have the seed that it was trained with."""
    cfg, run = config("seeds=[3,5]", "labels=null", "axes=[]"), RunDir(str(tmp_path))
    for cell in cells(cfg):
        rows = [
            Result.of(Subject(label="lam", method="lam", seed=0), "probe_r2", 0.5, 40),
            Result.of(Subject(label="bc", method="bc", seed=cell.seed), "success", 0.5, 40),
        ]
        write_results(run_dir(run, cell.name).stage("evaluation").path("results.parquet"), rows)
    study._write_results(cfg, run, {})
    assert set(pd.read_parquet(tmp_path / "results.parquet").seed) == {3, 5}


def test_a_run_that_asha_stopped_is_a_new_one_with_another_config(tmp_path):
    run, graphs = RunDir(str(tmp_path)), []
    for lr in (0.1, 0.01):
        graphs.append(study.graph_of(config(f"pipeline.train_decoder.0.train.optim.lr={lr}")))
    name = next(iter(graphs[0].runs))
    assert not was_stopped_early(graphs[0], run, name)
    driver = engine._Driver(graphs[0], run, printer=SilentPrinter())
    trial = SimpleNamespace(config={"run": name}, last_result={"step": 50})
    driver.on_trial_complete(0, [], trial)
    assert driver.missing == {name: STOPPED_EARLY}
    assert [was_stopped_early(graph, run, name) for graph in graphs] == [True, False]


class SilentPrinter:
    def given_up(self, *_):
        pass


def wait_for_stage(folder, name, timeout_s=400):
    deadline = time.monotonic() + timeout_s
    while not list(folder.glob(f"stages/{name}/*/summary.json")):
        assert time.monotonic() < deadline, f"no {name} in {timeout_s} s"
        time.sleep(0.5)


def summaries(folder):
    return {
        path.parent: (path.stat().st_mtime_ns, json.loads(path.read_text())["wall_s"])
        for path in folder.glob("stages/**/summary.json")
    }


@pytest.mark.slow
def test_a_killed_study_goes_on_and_repeats_nothing(tmp_path):
    """Real Ray, real Tune: kill -9 of the driver amid the trials, the same command, of a trial."""
    command = [sys.executable, "-m", "ray_jobs.study", str(TINY), "--storage", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True) as driver:
        wait_for_stage(tmp_path / "tiny_labels", "decoder/latent_flow")
        os.killpg(driver.pid, signal.SIGKILL)
    before = summaries(tmp_path / "tiny_labels")
    output = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, text=True) as driver:
        kill_one_below(driver.pid, "ImplicitFunc.train", timeout_s=300)
        printed = "".join(driver.communicate(timeout=900))
    assert driver.returncode == 0, printed
    after = summaries(tmp_path / "tiny_labels")
    assert before and {path: after[path] for path in before} == before
    assert len(after) > len(before)
    table = pd.read_parquet(tmp_path / "tiny_labels/results.parquet")
    success = table[(table.metric == "success") & (table.method == "latent_flow")]
    assert set(zip(success.variant, success.label_fraction, strict=True)) == {
        (anchor, fraction) for anchor in ("interpolated", "idm_latents") for fraction in (0.5, 1.0)
    }
    assert set(table.label_scope) == {"action_decoder"}
    for name in ("plot.png", "table.md", "table.tex", "report.html"):
        assert (tmp_path / "tiny_labels" / name).stat().st_size > 100
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "complete, nothing to do" in again.stdout
    assert summaries(tmp_path / "tiny_labels") == after


def wait_until_nothing_is_written(folder):
    """Sizes of all metrics, once they have been the same for 5 s."""
    deadline, sizes = time.monotonic() + 30, None
    while True:
        found = {path: path.stat().st_size for path in folder.glob("stages/**/metrics.jsonl")}
        if found == sizes:
            return found
        assert time.monotonic() < deadline, "a stopped trial trains on"
        sizes = found
        time.sleep(5)


@pytest.fixture
def ray_of_the_job():
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_the_job")
def test_a_failed_trial_is_reported_and_the_others_are_in_the_curve(tmp_path):
    wrong = "{label: wrong, overrides: ['train_decoder.0.train.optim.lr=1e30']}"
    cfg = config(f"axes=[{{values: [{{label: right}}, {wrong}]}}]", "labels.fractions=[1]")
    with pytest.raises(JobError, match=r"hold 1 of 2 runs(.|\n)*wrong-labels_1-seed_0: .*loss"):
        execute(study.JOB, cfg, RunDir(str(tmp_path)))
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert set(table.variant) == {"right"}
    assert "wrong-labels_1-seed_0" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_the_job")
def test_asha_ends_the_trial_that_is_behind_and_does_not_begin_it_again(tmp_path):
    """The trial that learns nothing would train for an hour; the other one is done in seconds."""
    decoder = "train_decoder.0.train"
    behind = f"[{decoder}.optim.lr=1e-9,{decoder}.num_steps=200000]"
    cfg = config(
        f"axes=[{{values: [{{label: ahead}}, {{label: behind, overrides: {behind}}}]}}]",
        "labels.fractions=[1]",
        f"pipeline.{decoder}.evaluate_every_steps=5",
        "asha={metric: val/action_mse_deployed, mode: min, grace_steps: 10}",
    )
    summary = execute(study.JOB, cfg, RunDir(str(tmp_path)))
    assert summary["num_runs"] == 1 and summary["stopped_early"] == "behind-labels_1-seed_0"
    assert set(pd.read_parquet(tmp_path / "results.parquet").variant) == {"ahead"}
    assert "behind-labels_1-seed_0: stopped early" in (tmp_path / "report.html").read_text()

    written = wait_until_nothing_is_written(tmp_path)
    (tmp_path / "summary.json").unlink()
    assert execute(study.JOB, cfg, RunDir(str(tmp_path)))["stopped_early"]
    assert wait_until_nothing_is_written(tmp_path) == written
