"""Codebooks and target encoders come out alike on every engine, in two processes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from lafp.config import load_config
from lafp.lam import load_lam
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.tasks.lam import LamTask, TrainLamConfig
from tests.process_group import group_of_two, run_two
from tests.synthetic_shards import write_shard_set
from tests.toy_task import GroupContext, assert_same_weights

CONFIGS = Path(__file__).parents[4] / "configs" / "train_lam"
ENGINES = {"ddp": DdpConfig()} | {f"zero{s}": DeepSpeedConfig(zero_stage=s) for s in (2, 3)}
OVERRIDES = {
    "lapa": ["objective.idm.is_checkpointed=true", "objective.fdm.is_checkpointed=true"],
    "lapo": [],
    # Wide enough that ZeRO-3 cuts the target encoder's weights (over 100,000 values).
    "laom": ["objective.encoder.channels=[64,128,128]", "objective.augment.kinds=[]"],
}


def config(objective: str, engine: str) -> TrainLamConfig:
    sizes = ["window.frame_stack=1", "supervision.weight=0.5", "supervision.batch_size=16"]
    cfg = load_config(
        TrainLamConfig, CONFIGS / f"{objective}_debug.yaml", [*sizes, *OVERRIDES[objective]]
    )
    engine_cfg = ENGINES[engine]
    return replace(cfg, train=replace(cfg.train, num_steps=8, num_workers=2, engine=engine_cfg))


def worker(rank: int, shards: str, labeled: str, root: Path) -> None:
    with group_of_two(rank, root / "store"):
        for objective in OVERRIDES:
            for engine in ENGINES:
                cfg, folder = config(objective, engine), root / objective / engine
                folder.mkdir(parents=True, exist_ok=True)
                train(cfg.train, LamTask(cfg, shards, labeled), GroupContext(str(folder)))
                dist.barrier()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lam_engines")
    shards = write_shard_set(root / "videos", num_clips=20, num_val_clips=4)
    labeled = write_shard_set(
        root / "labeled", num_clips=20, num_val_clips=4, has_labels=True, seed=1
    )
    run_two(worker, shards, labeled, root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("objective", OVERRIDES)
@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_a_lam_is_the_same_on_every_engine(runs, objective, engine):
    ours = load_lam(str(runs / objective / engine)).objective.state_dict()
    theirs = load_lam(str(runs / objective / "ddp")).objective.state_dict()
    assert_same_weights(ours, theirs)
