"""A run that goes on with another number of workers is the run that would have gone on as it was.

Without noise in the module, one worker and two do the same sums, up to their order.
"""

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lafp.train.config import TrainConfig
from lafp.train.context import LocalContext
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.metrics.log import read_metrics, read_starts
from lafp.train.optim import OptimConfig
from tests.process_group import group_of_two, run_two
from tests.synthetic_shards import write_shard_set
from tests.toy_task import GroupContext, ToyTask

NUM_STEPS, HALF = 8, 4
# Wide enough that ZeRO-3 cuts the weights (over 100,000 values) and keeps the biases whole, which
# have an odd number of values.
WIDTH = 161
CASES = {
    "ddp": (DdpConfig(), "fp32"),
    **{f"zero{stage}": (DeepSpeedConfig(zero_stage=stage), "fp32") for stage in range(4)},
    **{f"zero{stage}_bf16": (DeepSpeedConfig(zero_stage=stage), "bf16") for stage in range(4)},
}
GATE = ("zero2", "zero3")
REST = tuple(case for case in CASES if case not in GATE)


def config(case: str, num_workers: int, num_steps: int = NUM_STEPS) -> TrainConfig:
    engine, precision = CASES[case]
    return TrainConfig(
        num_steps=num_steps,
        global_batch_size=16,
        optim=OptimConfig(lr=3e-3, weight_decay=0.3, warmup_steps=2, max_grad_norm=0.5),
        engine=engine,
        num_workers=num_workers,
        precision=precision,
        report_every_steps=1,
        checkpoint_every_steps=HALF,
        evaluate_every_steps=100,
    )


def run(cfg: TrainConfig, shards: str, ctx) -> None:
    Path(ctx.uri).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    train(cfg, ToyTask(shards, clips_per_step=8, width=WIDTH, noise=0.0), ctx)


def two_workers(rank: int, shards: str, root: Path, cases: tuple[str, ...]) -> None:
    """An undisturbed run of each case, and one that goes on with what one worker began."""
    with group_of_two(rank, root / "store"):
        for case in cases:
            run(config(case, 2), shards, GroupContext(str(root / "two" / case)))
            folder = root / "one_then_two" / case
            if rank == 0:
                begun = root / "one" / case / "checkpoints" / f"step-{HALF:09d}"
                shutil.copytree(begun, folder / "checkpoints" / begun.name)
            dist.barrier()
            run(config(case, 2), shards, GroupContext(str(folder)))


@pytest.fixture(scope="module", params=[GATE, pytest.param(REST, marks=pytest.mark.slow)], ids=str)
def cases(request) -> tuple[str, ...]:
    return request.param


@pytest.fixture(scope="module")
def runs(cases, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("reshard")
    shards = write_shard_set(root / "shards", num_clips=20)
    for case in cases:
        run(config(case, 1, HALF), shards, LocalContext(str(root / "one" / case)))
    run_two(two_workers, shards, root, cases)
    for case in cases:
        folder = root / "two_then_one" / case
        begun = root / "two" / case / "checkpoints" / f"step-{HALF:09d}"
        shutil.copytree(begun, folder / "checkpoints" / f"step-{HALF:09d}")
        run(config(case, 1), shards, LocalContext(str(folder)))
    return root


@pytest.mark.parametrize("resumed", ["two_then_one", "one_then_two"])
def test_losses_weights_and_ema_are_those_of_an_undisturbed_run(runs, cases, resumed):
    for case in cases:
        ours, whole = runs / resumed / case, runs / "two" / case
        assert [start["step"] for start in read_starts(str(ours))] == [HALF]
        is_exact = CASES[case][1] == "fp32"
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if is_exact else {"rtol": 2e-3, "atol": 1e-3}
        for name in ("loss", "grad_norm"):
            values = [
                torch.tensor([r[name] for r in read_metrics(str(folder)) if r["step"] > HALF])
                for folder in (ours, whole)
            ]
            assert len(values[0]) == NUM_STEPS - HALF
            torch.testing.assert_close(*values, **tolerance, msg=lambda m, c=case: f"{c}: {m}")
        theirs, begun = torch.load(whole / "toy.pt"), torch.load(runs / "one" / case / "toy.pt")
        for name, value in torch.load(ours / "toy.pt").items():
            where = f"{case}, {name}"
            torch.testing.assert_close(
                value, theirs[name], **tolerance, msg=lambda m, w=where: f"{w}: {m}"
            )
            moved = (theirs[name] - begun[name]).abs().max()
            assert moved > 2 * tolerance["atol"], f"{where} hardly moves: nothing would be noticed"
