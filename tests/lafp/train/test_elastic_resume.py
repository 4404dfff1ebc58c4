"""A run that goes on with other workers, readers and micro-batches is the undisturbed run.

A chain is a run of three legs, so with two resumes. Between them change the number of workers (1, 2
or 4), of micro-batches (1, 2 or 4 per worker) and of reading threads (1 or 3), and each leg ends
with a stop or a crash. The full product would be 5,832 chains per engine and precision. Here every
engine and precision has nine, which hold every change of the number of workers (nine, with those
to itself) at the first resume, at the second, and from the first leg to the last; the rest is drawn
from a seed. The processes are started once for every number of workers and leg, not for each chain.
"""

import itertools
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lafp.data.order.micro_batches import MicroBatchLayout, MicroBatchReader, read_ahead
from lafp.runs.identity import recipe_of
from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.context import to_clip_batches
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from lafp.train.loop import StoppedError, train
from lafp.train.notice import Notice
from lafp.train.optim import OptimConfig
from tests.elastic_runs import (
    ENDS_AT,
    NUM_CLIPS,
    WINDOWS_PER_STEP,
    Leg,
    RecordingTask,
    assert_same_result,
    assert_same_windows,
    assert_visits_are_whole,
    windows_of,
)
from tests.process_group import group_of, run_group
from tests.synthetic_shards import write_shard_set
from tests.toy_task import GroupContext

# Wide enough that ZeRO-3 cuts the weights (over 100,000 values) and keeps the biases whole, which
# have an odd number of values.
WIDTH = 161
WORKERS = (1, 2, 4)
ENGINES = {"ddp": DdpConfig()} | {
    f"zero{stage}": DeepSpeedConfig(zero_stage=stage) for stage in range(4)
}
TOLERANCES = {"fp32": {"rtol": 1e-4, "atol": 1e-5}, "bf16": {"rtol": 2e-2, "atol": 1e-2}}
REFERENCE = "undisturbed"
Chains = dict[tuple[str, str, str], list[Leg]]
"""Name, engine and precision of a run -> its legs."""


def matrix() -> Chains:
    """Nine chains for every engine and precision."""
    chains: Chains = {}
    rng = random.Random(20)
    for engine, precision in itertools.product(ENGINES, TOLERANCES):
        for first, second in itertools.product(range(3), repeat=2):
            # A Latin square: any two of the three numbers tell the third.
            numbers = [WORKERS[i] for i in (first, second, (first + second) % 3)]
            name = f"{engine}-{precision}-" + "-".join(map(str, numbers))
            chains[name, engine, precision] = [
                Leg(
                    num_workers=number,
                    # Never as before, so that something changes where the workers do not.
                    gradient_accumulation=rounds,
                    num_readers=rng.choice([1, 3]),
                    ends=rng.choice(["stop", "crash"]) if end < ENDS_AT[-1] else "done",
                )
                for number, rounds, end in zip(
                    numbers, rng.sample([1, 2, 4], 3), ENDS_AT, strict=True
                )
            ]
    return chains


def gate() -> Chains:
    """Up and down at once, for every way in which engines keep their state."""
    return {
        (engine, engine, "fp32"): [
            Leg(num_workers=2, num_readers=3, ends="crash"),
            Leg(num_workers=4, gradient_accumulation=2, ends="stop"),
            Leg(num_workers=1, gradient_accumulation=4, num_readers=3),
        ]
        for engine in ("ddp", "zero2", "zero3")
    }


class _CrashError(Exception):
    pass


class LegContext(GroupContext):
    """Reads with the leg's threads, and ends the leg at a step."""

    def __init__(self, uri: str, leg: Leg, ends_at: int) -> None:
        super().__init__(uri)
        self._leg, self._ends_at = leg, ends_at

    def clips(self, demands, num_rounds, start_step):
        layout = MicroBatchLayout(
            demands=demands, rank=self.rank, world_size=self.world_size, num_rounds=num_rounds
        )
        reader = MicroBatchReader(layout, 1 << 24, self._leg.num_readers)
        return map(to_clip_batches, read_ahead(reader.read_from(start_step), 4))

    def notice(self, step: int) -> Notice:
        if step == self._ends_at:
            return Notice.STOP if self._leg.ends == "stop" else Notice.SAVE
        if step > self._ends_at:
            self.checkpoints.wait()
            raise _CrashError
        return super().notice(step)


def config(engine: str, precision: str, leg: Leg) -> TrainConfig:
    return TrainConfig(
        num_steps=ENDS_AT[-1],
        global_batch_size=WINDOWS_PER_STEP,
        gradient_accumulation=leg.gradient_accumulation,
        optim=OptimConfig(
            lr=3e-3, weight_decay=0.3, warmup_steps=2, max_grad_norm=0.5, decay="cosine"
        ),
        engine=ENGINES[engine],
        num_workers=leg.num_workers,
        precision=precision,
        report_every_steps=1,
        checkpoint_every_steps=100,
        evaluate_every_steps=100,
        ingest=IngestConfig(mode="direct", num_readers=leg.num_readers),
    )


def run_legs(
    rank: int, num_workers: int, number: int, chains: Chains, shards: str, root: Path
) -> None:
    """The legs of one number in the chains, of those with this many workers."""
    with group_of(num_workers, rank, root / f"store-{number}-{num_workers}"):
        for (name, engine, precision), legs in chains.items():
            folder, leg = root / name, legs[number]
            folder.mkdir(exist_ok=True)
            torch.manual_seed(rank)  # the engine takes the weights of rank 0
            task = RecordingTask(shards, str(folder), number, WIDTH)
            # The last leg, and so the only one of the undisturbed run, ends by itself.
            ends_at = ENDS_AT[number] if len(legs) > 1 else ENDS_AT[-1]
            try:
                train(config(engine, precision, leg), task, LegContext(str(folder), leg, ends_at))
                assert leg.ends == "done"
            except StoppedError:
                assert leg.ends == "stop"
            except _CrashError:
                assert leg.ends == "crash"
            dist.barrier()


@pytest.fixture(
    scope="module", params=[gate(), pytest.param(matrix(), marks=pytest.mark.slow)], ids=len
)
def chains(request) -> Chains:
    return request.param


@pytest.fixture(scope="module")
def runs(chains, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("elastic")
    shards = write_shard_set(root / "shards", num_clips=NUM_CLIPS)
    undisturbed: Chains = {
        (f"{REFERENCE}-{precision}", "ddp", precision): [Leg(num_workers=1)]
        for precision in {precision for _, _, precision in chains}
    }
    for number, num_workers in itertools.product(range(len(ENDS_AT)), WORKERS):
        mine = {
            key: legs
            for key, legs in (undisturbed | chains).items()
            if number < len(legs) and legs[number].num_workers == num_workers
        }
        if mine:
            run_group(num_workers, run_legs, num_workers, number, mine, shards, root)
    return root


def test_every_step_reads_the_windows_of_an_undisturbed_run(runs, chains):
    whole = windows_of(runs / f"{REFERENCE}-fp32", 0, Leg(num_workers=1))
    assert_visits_are_whole(whole)
    for (name, _, _), legs in chains.items():
        assert_same_windows(runs / name, legs, ENDS_AT, whole)


def test_losses_weights_and_averages_are_those_of_an_undisturbed_run(runs, chains):
    for name, _, precision in chains:
        reference = runs / f"{REFERENCE}-{precision}"
        assert_same_result(runs / name, reference, TOLERANCES[precision])


def test_the_chains_change_what_a_run_may_change_and_nothing_else():
    chains = matrix()
    for (_, engine, precision), legs in chains.items():
        assert len({str(recipe_of(config(engine, precision, leg))) for leg in legs}) == 1
    for engine, precision in itertools.product(ENGINES, TOLERANCES):
        of_engine = [legs for (_, *key), legs in chains.items() if key == [engine, precision]]
        for begin, end in ((0, 1), (1, 2), (0, 2)):
            changes = {(legs[begin].num_workers, legs[end].num_workers) for legs in of_engine}
            assert len(changes) == 9
    for engine, part in itertools.product(ENGINES, range(2)):
        found = {
            (legs[part].num_workers, legs[part].gradient_accumulation, legs[part].ends)
            for (_, of_engine, _), legs in chains.items()
            if of_engine == engine
        }
        assert len(found) > 9, "the seed draws the rest too much alike"
