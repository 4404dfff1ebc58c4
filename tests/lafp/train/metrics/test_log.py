import json
import resource
import sys

import pytest

from lafp.storage import json_lines
from lafp.train.metrics.log import MetricsLog, read_metrics
from lafp.train.notes import read_notes
from lafp.train.trackers.wandb import WandbConfig


@pytest.mark.parametrize("where", ["local", "s3"])
def test_records_after_the_resumed_step_are_dropped(where, tmp_path, request):
    uri = str(tmp_path) if where == "local" else request.getfixturevalue("s3_bucket") + "/run/lam"
    log = MetricsLog(uri, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": 1 / step, **({"probe": 0.5} if step == 10 else {})})
    assert [record["step"] for record in read_metrics(uri)] == [10, 20, 30]
    resumed = MetricsLog(uri, 20)
    assert resumed.last == {"step": 20, "loss": 0.05, "probe": 0.5}
    resumed.write(25, {"loss": 7.0})
    assert [record["step"] for record in read_metrics(uri)] == [10, 20, 25]
    assert MetricsLog(uri, 0).last == {} and read_metrics(uri) == []


def test_a_long_history_on_s3_is_stored_once_a_minute_and_before_each_checkpoint(
    s3_bucket, monkeypatch
):
    monkeypatch.setattr(json_lines, "_STORED_AT_ONCE_BYTES", 40)
    log = MetricsLog(s3_bucket, 0)
    stored = []
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": 1.0})
        stored.append(len(read_metrics(s3_bucket)))
    assert stored == [1, 2, 2, 2]  # it is long from the second record on
    log.flush()
    assert len(read_metrics(s3_bucket)) == 4
    monkeypatch.setattr(json_lines, "_STORED_EVERY_S", 0.0)
    log.write(5, {"loss": 1.0})
    assert [record["step"] for record in read_metrics(s3_bucket)] == [1, 2, 3, 4, 5]
    monkeypatch.setattr(json_lines, "_STORED_EVERY_S", 60.0)
    log.write(6, {"loss": 1.0})
    log.close()
    assert len(read_metrics(s3_bucket)) == 6


def test_a_half_written_last_line_is_skipped(tmp_path):
    MetricsLog(str(tmp_path), 0).write(1, {"loss": 2.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_metrics(str(tmp_path)) == [{"step": 1, "loss": 2.0}]
    MetricsLog(str(tmp_path), 1).write(2, {"loss": 3.0})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()] == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 3.0},
    ]


def test_records_hold_only_what_is_defined(tmp_path):
    log = MetricsLog(str(tmp_path), 0)
    log.write(1, {"loss": 1.0, "r2": float("nan"), "mfu": float("inf")})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'


def test_records_that_cannot_be_written_wait_and_training_is_not_stopped(tmp_path):
    """A limit on the size of files is a full disk: the write fails in the middle of a line."""
    log = MetricsLog(str(tmp_path), 0)
    log.write(1, {"loss": 1.0})
    size = (tmp_path / "metrics.jsonl").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        log.write(2, {"loss": 2.0})
        log.write(3, {"loss": 3.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [record["step"] for record in read_metrics(str(tmp_path))] == [1]
    log.write(4, {"loss": 4.0})
    assert [record["step"] for record in read_metrics(str(tmp_path))] == [1, 2, 3, 4]


def test_wandb_that_fails_is_noted_once_and_nothing_else_is_lost(tmp_path, monkeypatch):
    class GoneRun:
        def log(self, *_, **__):
            raise ConnectionError("wandb is gone")

        def finish(self):
            raise ConnectionError("wandb is gone")

    monkeypatch.setattr("wandb.init", lambda **_: GoneRun())
    log = MetricsLog(str(tmp_path), 0, WandbConfig(mode="offline"))
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
    log.close()
    assert len(read_metrics(str(tmp_path))) == 2
    (note,) = read_notes(str(tmp_path))
    assert note["text"].startswith("wandb: ConnectionError: wandb is gone. The work goes on")


def test_a_wandb_that_does_not_start_is_noted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    MetricsLog(str(tmp_path), 0, WandbConfig()).write(1, {"loss": 1.0})
    assert len(read_metrics(str(tmp_path))) == 1 and len(read_notes(str(tmp_path))) == 1
