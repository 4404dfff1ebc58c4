"""Two processes: every engine and stage trains alike, and resumes as if nothing had happened."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lafp.config import ConfigError
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

NUM_STEPS = 20
# Wide enough that ZeRO-3 cuts the weights (over 100,000 values) and keeps the biases whole.
WIDTH = 160
ENGINES = {"ddp": DdpConfig()} | {
    f"zero{stage}": DeepSpeedConfig(zero_stage=stage) for stage in range(4)
}
PRECISIONS = ("fp32", "bf16")


def config(engine: str, num_steps: int = NUM_STEPS, precision: str = "fp32") -> TrainConfig:
    return TrainConfig(
        num_steps=num_steps,
        global_batch_size=16,
        gradient_accumulation=2,
        optim=OptimConfig(lr=3e-3, weight_decay=0.1, warmup_steps=5, max_grad_norm=0.2),
        engine=ENGINES[engine],
        num_workers=2,
        precision=precision,
        report_every_steps=1,
        checkpoint_every_steps=NUM_STEPS // 2,
        evaluate_every_steps=7,
    )


def run(cfg: TrainConfig, shards: str, folder: Path) -> None:
    """One run of one rank. Weights differ between ranks until the engine makes them equal."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0 if dist.get_rank() == 0 else 1)
    train(cfg, ToyTask(shards, clips_per_step=8, width=WIDTH), GroupContext(str(folder)))
    dist.barrier()


def worker(rank: int, shards: str, root: Path) -> None:
    with group_of_two(rank, root / "store"):
        for precision, engine in itertools.product(PRECISIONS, ENGINES):
            run(config(engine, precision=precision), shards, root / precision / engine)
        other = OptimConfig(lr=1e-3, betas=(0.8, 0.99), weight_decay=10.0, max_grad_norm=0.2)
        for engine in ENGINES:
            for name, cfg in (
                ("resumed", config(engine)),
                ("changed", replace(config(engine), optim=other)),
            ):
                folder = root / name / engine
                if rank == 0:
                    copy_middle(root, engine, folder)
                dist.barrier()
                run(cfg, shards, folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    shards = write_shard_set(root / "shards", num_clips=20)
    run_two(worker, shards, root)
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "toy.pt")


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor([record["loss"] for record in read_metrics(str(folder))])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "ddp"])
def test_every_zero_stage_trains_as_ddp_does(runs, engine, precision):
    ours, ddp = runs / precision / engine, runs / precision / "ddp"
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 2e-2, "atol": 1e-2}
    )
    assert len(losses(ours)) == NUM_STEPS and losses(ours)[-1] < losses(ours)[0] / 1.5
    torch.testing.assert_close(losses(ours), losses(ddp), **tolerance)
    theirs = weights(ddp)
    for name, value in weights(ours).items():
        torch.testing.assert_close(
            value, theirs[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
    norms = [
        torch.tensor([record["grad_norm"] for record in read_metrics(str(folder))])
        for folder in (ours, ddp)
    ]
    assert (norms[1] > 0.2).any(), "clipping is part of what is compared"
    torch.testing.assert_close(*norms, **tolerance)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "ddp"])
def test_other_settings_of_the_optimizer_hold_from_the_checkpoint_on(runs, engine):
    ours, ddp = runs / "changed" / engine, runs / "changed" / "ddp"
    unchanged = losses(runs / "fp32" / "ddp")[NUM_STEPS // 2 :]
    # The first loss is that of the checkpoint, the next one comes after a step with the settings.
    assert losses(ddp)[0] == unchanged[0] and losses(ddp)[1] != unchanged[1]
    theirs, before = weights(ddp), weights(runs / "fp32" / "ddp")
    assert (theirs["encoder.0.weight"] - before["encoder.0.weight"]).abs().max() > 1e-3
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_resumed_in_the_middle_ends_as_the_whole_one(runs, engine):
    """Weights, EMA and buffers to the last bit; the learning rate warms up no second time."""
    resumed, whole = runs / "resumed" / engine, runs / "fp32" / engine
    assert [start["step"] for start in read_starts(str(resumed))] == [NUM_STEPS // 2]
    whole_weights = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, whole_weights[name]), name
    assert torch.equal(losses(resumed), losses(whole)[NUM_STEPS // 2 :])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_ema_and_the_buffers_moved(runs, engine):
    state = weights(runs / "fp32" / engine)
    online, target = state["encoder.0.weight"], state["target_encoder.0.weight"]
    assert 0 < (online - target).abs().max() < 0.1
    assert state["running_mean"].abs().max() > 0.1


@pytest.mark.parametrize(("wrote", "reads"), [("ddp", "zero1"), ("zero1", "ddp")])
def test_a_checkpoint_of_another_engine_is_an_error(runs, tmp_path, wrote, reads):
    with pytest.raises(ConfigError, match="The checkpoint was not written by engine"):
        train(config(reads), ToyTask(str(runs / "shards"), 8), halfway(runs, wrote, tmp_path))


def halfway(runs: Path, engine: str, folder: Path) -> LocalContext:
    """A context of one process that resumes from the middle of a run of two."""
    copy_middle(runs, engine, folder)
    return LocalContext(str(folder))


def copy_middle(runs: Path, engine: str, folder: Path) -> None:
    """What a run of two is resumed from that was stopped in the middle."""
    name = f"checkpoints/step-{NUM_STEPS // 2:09d}"
    shutil.copytree(runs / "fp32" / engine / name, folder / name)
