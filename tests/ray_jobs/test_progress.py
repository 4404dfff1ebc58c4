"""What the driver says while workers train, read from the files that they write. No Ray needed."""

import json
from pathlib import Path

from lafp.config import load_config
from lafp.runs.run_dir import RunDir, StageDir
from lafp.train.config import IngestConfig, TrainConfig
from ray_jobs.core.watchdog import Watchdog
from ray_jobs.studies.progress import ProgressPrinter, last_progress_line
from ray_jobs.studies.study_config import StudyConfig
from ray_jobs.study import graph_of
from ray_jobs.training.progress import shown_progress


def test_the_cores_that_decoding_needs_are_said_once(tmp_path, capsys):
    cfg = TrainConfig(
        num_steps=30,
        global_batch_size=16,
        num_workers=2,
        ingest=IngestConfig(mode="ray", num_readers=3),
    )
    with shown_progress(StageDir(str(tmp_path), "lam"), cfg):
        (tmp_path / "starts.jsonl").write_text(json.dumps({"step": 0, "at": 0.0}) + "\n")
        lines = [
            json.dumps(
                {
                    "step": step,
                    "loss": 1.0,
                    "windows_per_s": 300.0,
                    "data_wait_share": 0.25,
                    "decode_cores_needed": 2.6,
                }
            )
            for step in (10, 20, 30)
        ]
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    log = capsys.readouterr().err
    said = [line for line in log.splitlines() if "decoding" in line]
    assert len(said) == 1
    assert "400 windows/s" in said[0] and "2.6 cores" in said[0] and "6 readers" in said[0]
    (tmp_path / "log.txt").write_text(log + said[0] + "\n")
    assert "30/30 steps" in last_progress_line(StageDir(str(tmp_path), "lam"))  # as studies show


def test_a_study_says_how_stages_ended_and_counts_those_that_a_run_gives_up(tmp_path, capsys):
    config = Path(__file__).parents[2] / "configs/studies/tiny.yaml"
    graph = graph_of(load_config(StudyConfig, config))
    printer = ProgressPrinter(graph.nodes.values(), RunDir(str(tmp_path)), 1, Watchdog(60))
    nodes = [graph.nodes[key] for key in graph.runs["half_the_labels-seed_0"].values()]
    for node, error in ((nodes[0], None), (nodes[1], "no video")):
        printer.started(node)
        printer.ended(node, error)
    printer.given_up("half_the_labels-seed_0", nodes, "no video")
    done, failed, given_up = capsys.readouterr().out.splitlines()
    total = len(graph.nodes)
    assert done.startswith(f"[1/{total}] demonstrations of all_labels-seed_0: done in ")
    assert failed.startswith(f"[2/{total}] shards/videos of all_labels-seed_0: FAILED after ")
    assert given_up == f"[{len(nodes)}/{total}] half_the_labels-seed_0: no video"
