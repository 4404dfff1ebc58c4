"""Policies come out alike on every engine, in two processes, resumed halfway.

One has a frozen encoder, one a projection, one chunks.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from lafp.config import config_from_dict
from lafp.finished.load import load_policy
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from tests.process_group import group_of_two, run_two
from tests.synthetic_dinov2 import write_dinov2
from tests.synthetic_lam import write_lam
from tests.synthetic_shards import write_shard_set
from tests.toy_task import GroupContext, assert_same_weights

ENGINES = {"ddp": DdpConfig()} | {f"zero{s}": DeepSpeedConfig(zero_stage=s) for s in (1, 2)}
NUM_STEPS, BATCH_SIZE = 6, 16
POLICIES = {
    "latent_bc": {"encoder": {"name": "dinov2", "image_size_px": 28, "grid_size": 2}},
    "latent_flow": {"latent_projection": {"name": "pca", "dim": 3, "num_fit_latents": 40}},
    "latent_mean_flow": {"chunk_steps": 3},
}


def config(policy: str, engine: str, dinov2: Path, num_steps: int) -> TrainPolicyConfig:
    encoder = {"name": "small_cnn", "channels": [8], "embed_dim": 16}
    settings = {"name": policy, "encoder": encoder, **POLICIES[policy]}
    if settings["encoder"]["name"] == "dinov2":
        settings["encoder"] |= {"path": str(dinov2)}
    raw = {
        "policy": settings,
        "train": {
            "num_steps": num_steps,
            "global_batch_size": BATCH_SIZE,
            "optim": {"lr": 1e-3},
            "num_workers": 2,
        },
    }
    cfg = config_from_dict(TrainPolicyConfig, raw)
    return replace(cfg, train=replace(cfg.train, engine=ENGINES[engine]))


def worker(rank: int, shards: str, lam: str, root: Path) -> None:
    with group_of_two(rank, root / "store"):
        for policy in POLICIES:
            for engine in ENGINES:
                folder = root / policy / engine
                folder.mkdir(parents=True, exist_ok=True)
                for num_steps in (NUM_STEPS // 2, NUM_STEPS):  # the second resumes from the first
                    cfg = config(policy, engine, root / "dinov2", num_steps)
                    train(cfg.train, PolicyTask(cfg, shards, lam), GroupContext(str(folder)))
                    dist.barrier()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("policy_engines")
    shards = write_shard_set(root / "videos", num_clips=20, num_val_clips=4)
    lam = write_lam(str(root / "lam"))
    write_dinov2(root / "dinov2")
    run_two(worker, shards, lam, root)
    return root


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("engine", ["zero1", "zero2"])
def test_a_policy_is_the_same_on_every_engine(runs, policy, engine):
    ours = load_policy(str(runs / policy / engine)).state_dict()
    theirs = load_policy(str(runs / policy / "ddp")).state_dict()
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_statistics_are_of_the_latents_of_all_workers(runs, policy, engine):
    standardizer = load_policy(str(runs / policy / engine)).standardizer
    assert standardizer.count.item() == NUM_STEPS * BATCH_SIZE
    assert (standardizer.std() > 0).all()
