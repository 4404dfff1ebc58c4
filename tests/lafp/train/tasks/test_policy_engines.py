"""Policies come out alike on every engine, in two processes: weights, statistics, projection."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lafp.config import config_from_dict
from lafp.policies.base import load_policy
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.tasks.policy import PolicyTask, TrainPolicyConfig
from tests.synthetic_lam import write_lam
from tests.synthetic_shards import write_shard_set
from tests.toy_task import GroupContext

ENGINES = {"ddp": DdpConfig()} | {f"zero{s}": DeepSpeedConfig(zero_stage=s) for s in (1, 2)}
NUM_STEPS, BATCH_SIZE = 6, 16
POLICIES = {
    "latent_bc": {},
    "latent_flow": {"latent_projection": {"name": "pca", "dim": 3, "num_fit_latents": 40}},
    "latent_mean_flow": {"chunk_steps": 3},
}


def config(policy: str, engine: str) -> TrainPolicyConfig:
    encoder = {"name": "small_cnn", "channels": [8], "embed_dim": 16}
    raw = {
        "policy": {"name": policy, "encoder": encoder, **POLICIES[policy]},
        "train": {
            "num_steps": NUM_STEPS,
            "global_batch_size": BATCH_SIZE,
            "optim": {"lr": 1e-3},
            "num_workers": 2,
        },
    }
    cfg = config_from_dict(TrainPolicyConfig, raw)
    return replace(cfg, train=replace(cfg.train, engine=ENGINES[engine]))


def worker(rank: int, shards: str, lam: str, root: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=rank, world_size=2)
    os.environ["LOCAL_RANK"] = str(rank)
    for policy in POLICIES:
        for engine in ENGINES:
            cfg, folder = config(policy, engine), root / policy / engine
            folder.mkdir(parents=True, exist_ok=True)
            train(cfg.train, PolicyTask(cfg, shards, lam), GroupContext(str(folder)))
            dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("policy_engines")
    shards = write_shard_set(root / "videos", num_clips=20, num_val_clips=4)
    lam = write_lam(str(root / "lam"))
    mp.spawn(worker, (shards, lam, root), nprocs=2)
    return root


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("engine", ["zero1", "zero2"])
def test_a_policy_is_the_same_on_every_engine(runs, policy, engine):
    ours = load_policy(str(runs / policy / engine)).state_dict()
    theirs = load_policy(str(runs / policy / "ddp")).state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_statistics_are_of_the_latents_of_all_workers(runs, policy, engine):
    standardizer = load_policy(str(runs / policy / engine)).standardizer
    assert standardizer.count.item() == NUM_STEPS * BATCH_SIZE
    assert (standardizer.std() > 0).all()
