"""Procgen, whose actions are discrete, through every stage."""

import pandas as pd
import pytest

from tests.integration.conftest import run_pipeline
from tests.shard_tables import table_file

pytest.importorskip("procgen", reason="procgen2 is not installed")
FEW = [
    "collect.num_episodes=6", "collect.num_labeled_episodes=12",
    "collect.num_labeled_val_episodes=8", "train_lam.train.num_steps=20",
    "train_lam.train.evaluate_every_steps=20", "train_policy.*.train.num_steps=20",
    "train_decoder.*.train.num_steps=20", "evaluate.num_episodes=4", "evaluate.save_rollouts=1",
    "evaluate.latency.num_rounds=2",
]  # fmt: skip


@pytest.mark.slow
def test_games_become_a_policy_with_discrete_actions(tmp_path):
    run_pipeline(tmp_path, *FEW, config="configs/pipeline/procgen_maze.yaml")
    run = tmp_path / "run"
    shards = run / "shards/videos"
    clips, rejects = (pd.read_parquet(shards / table_file(name)) for name in ("clips", "rejects"))
    # The planner's way through a small maze may have fewer frames than a clip needs.
    assert len(clips) + len(rejects) == 6 and set(rejects.reason) <= {"too_short"}
    assert len(clips) >= 4
    results = pd.read_parquet(run / "evaluation/results.parquet")
    metrics = results.groupby("label").metric.apply(set)
    for label in ("latent_bc", "lafp_fresh"):
        assert {"success", "action_accuracy", "latency_b1_ms"} <= metrics[label], metrics[label]
    assert {"probe_r2"} <= metrics["lam"]
    assert {"success", "return", "length"} <= metrics["random"]
