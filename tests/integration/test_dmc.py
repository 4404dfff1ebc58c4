"""The DeepMind Control Suite with distractors through every stage."""

import pandas as pd
import pytest

from tests.integration.conftest import run_pipeline
from tests.simulators import save_random_expert, skip_without
from tests.synthetic_video import moving_square, write_video

skip_without("dm_control")
ENVS = ("collect.env", "collect.unseen_env", "evaluate.env")
FEW = [
    "collect.num_episodes=4", "collect.num_labeled_episodes=4",
    "collect.num_labeled_val_episodes=2", "collect.episodes_per_task=2",
    "train_lam.train.num_steps=20", "train_lam.train.evaluate_every_steps=20",
    "train_policy.0.train.num_steps=20", "train_decoder.0.train.num_steps=20",
    "train_decoder.0.label_fraction=0.5", "evaluate.num_episodes=2",
    "evaluate.episodes_per_task=1", "evaluate.env.episode_steps=60", "evaluate.save_rollouts=1",
    "evaluate.latency.num_rounds=2",
]  # fmt: skip


@pytest.mark.slow
def test_distracted_demonstrations_become_a_policy_that_is_measured_by_its_return(tmp_path):
    expert = save_random_expert(tmp_path / "expert.pt")
    (tmp_path / "videos").mkdir()
    for seed in range(16):
        write_video(tmp_path / "videos" / f"{seed}.mp4", moving_square(60, seed=seed), fps=10)
    paths = [f"{env}.expert={expert}" for env in ENVS]
    paths += [f"{env}.distractors.videos={tmp_path}/videos" for env in ENVS]
    # The few videos may all be on one side of the split.
    paths += [f"{env}.distractors.video_split=train" for env in ENVS]
    short = [f"{env}.episode_steps=99" for env in ENVS[:2]]
    run_pipeline(tmp_path, *FEW, *paths, *short, config="configs/pipeline/dmc_cheetah_run.yaml")
    run = tmp_path / "run"
    clips = pd.read_parquet(run / "shards/videos/clips")
    assert len(clips) == 8 and set(clips.num_frames) == {50}
    results = pd.read_parquet(run / "evaluation/results.parquet")
    metrics = results.groupby("label").metric.apply(set)
    # Nothing is over the return of a demonstrator that gets nowhere.
    assert {"return", "length", "action_mse", "latency_b1_ms"} <= metrics["latent_bc"]
    assert "success" not in metrics["latent_bc"]
    assert {"probe_r2"} <= metrics["lam"] and {"probe_r2"} <= metrics["random_lam"]
    assert "1 way to act in dmc with distractors" in (run / "report.html").read_text()
