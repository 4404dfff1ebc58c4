from itertools import count

import pytest

from lafp.train.metrics.feeding import CORES_NEEDED, Feeding, advice
from tests.synthetic_shards import write_shard_set
from tests.toy_task import demand


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_shard_set(tmp_path_factory.mktemp("shards"), 16, frames=(60, 60), size_px=64)


def test_decoding_is_measured_per_step_of_all_streams(shards, monkeypatch):
    # A clock that goes on by 4 s of CPU while the 16 clips of the sample are read.
    monkeypatch.setattr("time.thread_time", count(step=4).__next__)
    one, both = (
        Feeding({f"stream {n}": demand(shards, 8) for n in range(num)}, 0).decode_s_per_step
        for num in (1, 2)
    )
    clips_per_step = demand(shards, 8).clips_per_step
    assert one == clips_per_step * 4 / 16
    assert both == 2 * one


def test_faster_steps_need_more_cores_and_waiting_is_no_work(shards):
    feeding = Feeding({"train": demand(shards, 8)}, cache_bytes=0)
    slow = feeding.metrics(step_s=1.0, data_wait_share=0.0)[CORES_NEEDED]
    assert slow == pytest.approx(feeding.decode_s_per_step)
    assert feeding.metrics(0.5, 0.0)[CORES_NEEDED] == pytest.approx(2 * slow)
    # Half of a second was waiting: with its data there, the step takes half a second.
    assert feeding.metrics(1.0, 0.5)[CORES_NEEDED] == pytest.approx(2 * slow)


def test_a_clip_that_cannot_be_read_does_not_end_the_measurement(tmp_path):
    shards = write_shard_set(tmp_path, num_clips=8)
    path = next(tmp_path.glob("*.tar"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert Feeding({"train": demand(shards, 4)}, 0).decode_s_per_step > 0


def test_clips_that_a_reader_keeps_take_no_cores(shards):
    all_bytes = 16 * 60 * 64 * 64 * 3
    demands = {"train": demand(shards, 8)}
    assert Feeding(demands, cache_bytes=all_bytes - 1).decode_s_per_step > 0
    assert Feeding(demands, cache_bytes=all_bytes).decode_s_per_step == 0


def test_the_advice_names_the_rate_and_the_cores_and_waiting_only_where_there_is_some():
    record = {"windows_per_s": 300.0, "data_wait_share": 0.25, CORES_NEEDED: 2.6}
    text = advice(record, num_readers=2)
    assert "400 windows/s" in text and "2.6 cores" in text and "2 readers" in text
    assert "25% of the time is waiting" in text
    assert "waiting" not in advice(record | {"data_wait_share": 0.02}, num_readers=2)
    assert advice(record | {CORES_NEEDED: 0.0}, num_readers=2) == ""
