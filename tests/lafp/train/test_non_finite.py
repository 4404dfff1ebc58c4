"""Two processes, one of which meets a NaN: every engine skips the step on both, or stops."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lafp.train.config import TrainConfig
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import train
from lafp.train.metrics.finite_guard import NonFiniteLossError
from lafp.train.metrics.log import read_metrics
from lafp.train.optim import OptimConfig
from tests.process_group import group_of_two, run_two
from tests.synthetic_shards import write_shard_set
from tests.toy_task import GroupContext, ToyTask

NUM_STEPS, BAD_STEPS = 6, (2, 3)
WIDTH = 160
CASES = {"ddp": (DdpConfig(), "fp32"), "ddp_bf16": (DdpConfig(), "bf16")} | {
    f"zero{stage}": (DeepSpeedConfig(zero_stage=stage), "fp32") for stage in range(4)
}
for stage in (2, 3):
    CASES[f"zero{stage}_bf16"] = DeepSpeedConfig(zero_stage=stage), "bf16"
    offloaded = DeepSpeedConfig(zero_stage=stage, offload_optimizer=True)
    CASES[f"zero{stage}_offload"] = offloaded, "fp32"


class SpoiledTask(ToyTask):
    """Rank 1 meets a NaN in the last micro-batch of the bad steps.

    In the first it stays with that rank's loss, in the second it reaches a buffer, and so everyone.
    """

    def __init__(self, shards: str, ends: list[str]) -> None:
        super().__init__(shards, clips_per_step=8, width=WIDTH)
        self._ends, self._num_rounds = ends, 0
        self.module.after_step = self._after(self.module.after_step)
        self.module.discard_step = self._after(self.module.discard_step)

    def _after(self, method):
        def wrapped():
            method()
            self._ends.append(method.__name__)

        return wrapped

    def inputs(self, clips):
        window = super().inputs(clips)
        step, round_index = divmod(self._num_rounds, 2)
        self._num_rounds += 1
        if step in BAD_STEPS and round_index == 1 and dist.get_rank() == 1:
            spoiled = window.next_obs if step == BAD_STEPS[0] else window.obs
            spoiled[0].fill_(float("nan"))
        return window


def config(case: str, **kwargs) -> TrainConfig:
    engine, precision = CASES[case]
    return TrainConfig(
        num_steps=NUM_STEPS,
        global_batch_size=16,
        gradient_accumulation=2,
        optim=OptimConfig(lr=3e-3, weight_decay=0.1, max_grad_norm=0.2),
        engine=engine,
        num_workers=2,
        precision=precision,
        report_every_steps=1,
        checkpoint_every_steps=2,
        evaluate_every_steps=100,
        num_checkpoints_to_keep=NUM_STEPS,
        **kwargs,
    )


def run(cfg: TrainConfig, shards: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    ends: list[str] = []
    outcome = {}
    try:
        outcome["metrics"] = train(cfg, SpoiledTask(shards, ends), GroupContext(str(folder)))
    except NonFiniteLossError as error:
        outcome["error"] = str(error)
    (folder / f"rank-{dist.get_rank()}.json").write_text(json.dumps(outcome | {"ends": ends}))
    dist.barrier()


def worker(rank: int, shards: str, root: Path) -> None:
    with group_of_two(rank, root / "store"):
        for case in CASES:
            run(config(case, on_non_finite="skip"), shards, root / "skip" / case)
        for case in ("ddp", "zero2"):
            run(config(case), shards, root / "stop" / case)
            cfg = config(case, on_non_finite="skip", max_skipped_steps=1)
            run(cfg, shards, root / "too_many" / case)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("non_finite")
    shards = write_shard_set(root / "shards", num_clips=20)
    run_two(worker, shards, root)
    return root


def outcome(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"rank-{rank}.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_skip_the_step_and_go_on(runs, case):
    folder = runs / "skip" / case
    for rank in (0, 1):
        ends = outcome(folder, rank)["ends"]
        assert [i for i, end in enumerate(ends) if end == "discard_step"] == list(BAD_STEPS)
    records = read_metrics(str(folder))
    assert [record["skipped_steps"] for record in records] == [0, 0, 1, 2, 2, 2]
    assert ["loss" in record for record in records] == [True, True, False, False, True, True]
    assert records[-1]["loss"] < records[0]["loss"]
    lines = (folder / "skipped_steps.jsonl").read_text().splitlines()
    skipped = [json.loads(line) for line in lines]
    assert [row["step"] for row in skipped] == list(BAD_STEPS)
    num_clips = [len(row["clip_ids_begin_with"]) for row in skipped]
    assert num_clips[0] == 4 < num_clips[1], "of rank 1 only, then of both"


@pytest.mark.parametrize("case", CASES)
def test_a_skipped_step_changes_neither_weights_nor_moments_nor_buffers(runs, case):
    """The step after two skipped ones starts from the very state that was there before them."""
    folder = runs / "skip" / case
    states = [checkpoint(folder, step) for step in (2, 4, 6)]
    assert_equal(states[0], states[1])
    with pytest.raises(AssertionError):
        assert_equal(states[1], states[2])


def checkpoint(folder: Path, step: int) -> dict:
    files = sorted((folder / "checkpoints" / f"step-{step:09d}").rglob("*.pt"))
    assert files
    state = {}
    for file in files:
        flatten(file.name, torch.load(file, weights_only=False), state)
    return state


def flatten(name: str, value, into: dict) -> None:
    if isinstance(value, torch.Tensor):
        into[name] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            flatten(f"{name}.{key}", item, into)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            flatten(f"{name}.{index}", item, into)


def assert_equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("case", ["ddp", "zero2"])
def test_stop_names_the_clips_of_the_rank_that_met_it(runs, case):
    errors = [outcome(runs / "stop" / case, rank)["error"] for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert errors[0].startswith(f"The loss of step {BAD_STEPS[0]} is not finite.")
    assert len(errors[0].partition("begin with: ")[2].split(", ")) == 4


@pytest.mark.parametrize("case", ["ddp", "zero2"])
def test_too_many_in_a_row_stop_all_ranks(runs, case):
    errors = [outcome(runs / "too_many" / case, rank)["error"] for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("2 steps in a row were skipped. The loss of step 3 is not finite.")
