"""A study of probes on a machine without Ray: in pieces, to its tables, in one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from lafp.config import load_config
from lafp.runs.run_dir import RunDir
from lafp.train.metrics.log import read_starts
from ray_jobs import pipeline, study
from ray_jobs.core.job import JobError, execute
from ray_jobs.studies.pipeline_config import PipelineConfig
from ray_jobs.studies.study_config import StudyConfig
from tests.synthetic_shards import write_shard_set
from tests.synthetic_video import moving_square, write_video

ROOT = Path(__file__).parents[2]
NUM_STEPS = 200
STUDY = f"""
name: ladder
pipeline:
  preprocess:
    source: {{folder}}/source
    clip: {{{{max_s: 5.0}}}}
    resize: {{{{width_px: 16, height_px: 16}}}}
  train_lam:
    extends: {ROOT}/configs/train_lam/lapo_debug.yaml
    labeled_shards: {{folder}}/labeled
    window: {{{{frame_stack: 1}}}}
    train:
      num_steps: {NUM_STEPS}
      checkpoint_every_steps: 10
      report_every_steps: 10
      evaluate_every_steps: {NUM_STEPS}
      ingest: {{{{mode: direct}}}}
  evaluate: {{{{labeled_shards: {{folder}}/labeled}}}}
axes:
  - values:
      - {{{{label: small}}}}
      - {{{{label: large, overrides: [train_lam.objective.latent_action_dim=32]}}}}
seeds: [0]
"""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    for i in range(6):
        write_video(tmp_path / "source" / f"{i}.mp4", moving_square(30, seed=i), fps=10)
    write_shard_set(
        tmp_path / "labeled", num_clips=12, num_val_clips=4, has_labels=True, frames=(10, 14)
    )
    path = tmp_path / "ladder.yaml"
    path.write_text(STUDY.format(folder=tmp_path))
    return path


def start(config: Path) -> "subprocess.Popen[str]":
    """Starts the study in a Python that finds all packages but Ray, DeepSpeed and wandb."""
    names = ("ray", "deepspeed", "wandb")
    code = f"import sys\nsys.modules |= dict.fromkeys({names})\n"
    (config.parent / "sitecustomize.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.study", str(config), "--storage", str(config.parent)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(config.parent), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end_in_training(process: "subprocess.Popen[str]", folder: Path, number: int, num: int) -> str:
    """Sends a signal once ``num`` LAMs are begun, and the last one has a checkpoint."""
    deadline = time.monotonic() + 300
    while len(list(folder.glob("stages/lam/*/starts.jsonl"))) < num or not any(
        not (lam / "summary.json").exists() and list(lam.glob("checkpoints/step-*"))
        for lam in folder.glob("stages/lam/*")
    ):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return output


def resumed_from(folder: Path) -> list[list[int]]:
    """The first steps of the starts of each LAM, sorted."""
    lams = folder.glob("stages/lam/*")
    return sorted([int(start["step"]) for start in read_starts(str(lam))] for lam in lams)


def test_a_study_that_is_stopped_and_killed_goes_on_to_its_tables(config, tmp_path):
    folder = tmp_path / "ladder"
    stopped = start(config)
    output = end_in_training(stopped, folder, signal.SIGTERM, num=1)
    # It has saved, and does not go on with the stage after the one that it has stopped.
    assert stopped.returncode == 1 and "Error: Stopped at step" in output.splitlines()[-1], output
    assert len(resumed_from(folder)) == 1

    killed = start(config)
    end_in_training(killed, folder, signal.SIGKILL, num=2)

    last = start(config)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    assert all(first == 0 and second > 0 for first, second in resumed_from(folder))
    table = pd.read_parquet(folder / "results.parquet")
    probed = table[(table.metric == "probe_r2") & (table.label == "lam")]
    assert set(probed.variant) == {"small", "large"}
    assert (folder / "report.html").is_file() and (folder / "table.md").is_file()
    assert len(list(folder.glob("runs/*/report.html"))) == 2


def test_a_stage_that_fails_stops_only_what_reads_it(config, tmp_path, capfd):
    cfg = load_config(StudyConfig, config, ["pipeline.train_lam.train.num_steps=2"])
    run = RunDir(str(tmp_path / "broken"))
    key = study.graph_of(cfg).runs["small-seed_0"]["lam"]
    (tmp_path / f"broken/stages/lam/{key}").mkdir(parents=True)
    # The model cannot take the place of a folder.
    (tmp_path / f"broken/stages/lam/{key}/model.safetensors").mkdir()
    with pytest.raises(JobError, match=r"hold 1 of 2 runs\.\n  small-seed_0: lam: "):
        execute(study.JOB, cfg, run)
    assert set(pd.read_parquet(tmp_path / "broken/results.parquet").variant) == {"large"}
    assert "evaluation of small" not in capfd.readouterr().out


def test_what_needs_ray_is_asked_only_of_what_is_left(tmp_path):
    cfg = load_config(
        PipelineConfig,
        ROOT / "configs/pipeline/tiny.yaml",
        [
            *(f"{section}=[]" for section in ("train_policy", "train_decoder", "train_bc")),
            "train_lam.train.num_workers=1",
            "train_lam.train.ingest.mode=direct",
            "evaluate.env=null",
            "evaluate.methods=[]",
        ],
    )
    run = RunDir(str(tmp_path))
    assert not pipeline.JOB.can_be_alone(cfg, run)
    run.stage("demonstrations").begin(cfg.collect, {})
    run.stage("demonstrations").finish({})
    assert pipeline.JOB.can_be_alone(cfg, run)
