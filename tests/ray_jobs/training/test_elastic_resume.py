"""Chains of resumes through Ray: readers of Ray Data and workers change in number.

The whole matrix of workers, engines and micro-batches runs without Ray, in
tests/lafp/train/test_elastic_resume.py.
"""

from functools import partial
from pathlib import Path

import pytest
import ray

from lafp.train.config import IngestConfig, TrainConfig
from lafp.train.engines.ddp import DdpConfig
from lafp.train.engines.deepspeed import DeepSpeedConfig
from ray_jobs.core.cluster import start_local
from ray_jobs.training.trainer import fit
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
from tests.ray_jobs.training.toy_runs import config, stage
from tests.synthetic_shards import write_shard_set

pytestmark = pytest.mark.slow
CHAINS = {
    "ddp": [
        Leg(num_workers=1, mode="ray", num_readers=3),
        Leg(num_workers=4, mode="ray", num_readers=1),
        Leg(num_workers=2, mode="ray", num_readers=2, gradient_accumulation=2),
    ],
    "zero2": [
        Leg(num_workers=2, num_readers=2, gradient_accumulation=4),
        Leg(num_workers=1, mode="ray", num_readers=2),
        Leg(num_workers=4, mode="ray", num_readers=1, gradient_accumulation=2),
    ],
    "zero3": [
        Leg(num_workers=4, mode="ray", num_readers=1),
        Leg(num_workers=2, mode="ray", num_readers=3),
        Leg(num_workers=1, num_readers=3, gradient_accumulation=4),
    ],
}
ENGINES = {
    "ddp": DdpConfig(),
    "zero2": DeepSpeedConfig(zero_stage=2),
    "zero3": DeepSpeedConfig(zero_stage=3),
}


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAFP_OWN_RAY", "1")
        start_local(8)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_shard_set(tmp_path_factory.mktemp("shards"), num_clips=NUM_CLIPS)


def run_leg(shards: str, folder: Path, engine: str, number: int, leg: Leg, num_steps: int) -> None:
    cfg: TrainConfig = config(
        ENGINES[engine],
        num_steps=num_steps,
        global_batch_size=WINDOWS_PER_STEP,
        num_workers=leg.num_workers,
        gradient_accumulation=leg.gradient_accumulation,
        checkpoint_every_steps=100,
        ingest=IngestConfig(mode=leg.mode, num_readers=leg.num_readers),
    )
    fit(stage(folder), cfg, partial(RecordingTask, shards, str(folder), number))


@pytest.fixture(scope="module")
def undisturbed(shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_leg(shards, folder, "ddp", 0, Leg(num_workers=1), ENDS_AT[-1])
    return folder


@pytest.mark.parametrize("engine", CHAINS)
def test_two_resumes_with_other_workers_and_readers_change_nothing(
    shards, undisturbed, tmp_path, engine
):
    whole = windows_of(undisturbed, 0, Leg(num_workers=1))
    assert_visits_are_whole(whole)
    for number, (leg, end) in enumerate(zip(CHAINS[engine], ENDS_AT, strict=True)):
        run_leg(shards, tmp_path, engine, number, leg, end)
    assert_same_windows(tmp_path, CHAINS[engine], ENDS_AT, whole)
    assert_same_result(tmp_path, undisturbed, {"rtol": 1e-4, "atol": 1e-5})
