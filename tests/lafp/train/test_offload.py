"""Two processes: with the optimizer in host memory training is what it is without."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lafp.train.config import TrainConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.metrics.log import read_metrics
from lafp.train.optim import OptimConfig
from tests.process_group import group_of_two, run_two
from tests.synthetic_shards import write_shard_set
from tests.toy_task import GroupContext, ToyTask

NUM_STEPS, HALF = 10, 5
# Wide enough that ZeRO-3 cuts the weights (over 100,000 values) and keeps the biases whole.
WIDTH = 160
CASES = {
    "zero1": (1, "fp32"),
    "zero2": (2, "fp32"),
    "zero2_bf16": (2, "bf16"),
    "zero3": (3, "fp32"),
}


def config(case: str, is_offloaded: bool, num_steps: int = NUM_STEPS) -> TrainConfig:
    stage, precision = CASES[case]
    return TrainConfig(
        num_steps=num_steps,
        engine=DeepSpeedConfig(zero_stage=stage, offload_optimizer=is_offloaded),
        optim=OptimConfig(lr=3e-3, weight_decay=0.1, warmup_steps=3, max_grad_norm=0.2),
        precision=precision,
        report_every_steps=1,
        checkpoint_every_steps=HALF,
        evaluate_every_steps=100,
        global_batch_size=16,
        gradient_accumulation=2,
        num_workers=2,
    )


def run(cfg: TrainConfig, shards: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train(cfg, ToyTask(shards, clips_per_step=8, width=WIDTH), GroupContext(str(folder)))
    dist.barrier()


def worker(rank: int, shards: str, root: Path) -> None:
    with group_of_two(rank, root / "store"):
        for case in CASES:
            run(config(case, False), shards, root / "device" / case)
            for num_steps in (HALF, NUM_STEPS):  # killed and resumed in between
                run(config(case, True, num_steps), shards, root / "offloaded" / case)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("offload")
    shards = write_shard_set(root / "shards", num_clips=20)
    run_two(worker, shards, root)
    return root


@pytest.mark.parametrize("case", CASES)
def test_losses_norms_and_weights_are_those_without_offload(runs, case):
    offloaded, device = runs / "offloaded" / case, runs / "device" / case
    tolerance = {"rtol": 2e-2, "atol": 1e-2} if "bf16" in case else {"rtol": 1e-4, "atol": 1e-5}
    for name in ("loss", "grad_norm"):
        ours, theirs = (
            torch.tensor([record[name] for record in read_metrics(str(folder))])
            for folder in (offloaded, device)
        )
        assert len(ours) == NUM_STEPS
        torch.testing.assert_close(ours, theirs, **tolerance)
    theirs = torch.load(device / "toy.pt")
    for name, value in torch.load(offloaded / "toy.pt").items():
        torch.testing.assert_close(
            value, theirs[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_offload_needs_a_stage_that_cuts_the_optimizer():
    with pytest.raises(ValueError, match="offload_optimizer needs zero_stage 1, 2 or 3, got 0"):
        DeepSpeedConfig(zero_stage=0, offload_optimizer=True)
