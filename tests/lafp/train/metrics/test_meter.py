import json
import resource
import sys
import time

import pytest
import torch

from lafp import storage
from lafp.train.metrics.log import MetricsLog, read_metrics
from lafp.train.metrics.meter import Meter, NonFiniteLossError
from lafp.train.notes import read_notes
from lafp.types import ClipBatch, LossOutput


def clips(*keys: int) -> dict[str, ClipBatch]:
    batch = ClipBatch(
        frames=torch.zeros(len(keys), 1, 1, 1, 3, dtype=torch.uint8),
        num_frames=torch.ones(len(keys), dtype=torch.long),
        clip_key=torch.tensor(keys),
        epoch=torch.zeros(len(keys), dtype=torch.long),
    )
    return {"videos": batch}


def out(loss: float, **metrics: float) -> LossOutput:
    return LossOutput(
        loss=torch.tensor(loss), metrics={k: torch.tensor(v) for k, v in metrics.items()}
    )


FINE, BAD = torch.tensor(1.0), torch.tensor(float("nan"))


@pytest.fixture
def meter() -> Meter:
    return Meter(torch.device("cpu"), windows_per_step=8)


def test_metrics_are_means_over_the_interval(meter):
    meter.add(0, out(1.0, part=2.0), clips(1))
    meter.add(0, out(2.0, part=4.0), clips(2))
    meter.end_step(0, FINE)
    meter.add(1, out(6.0, part=9.0), clips(3))
    meter.end_step(1, FINE)
    metrics = meter.read()
    assert metrics["loss"] == 3 and metrics["part"] == 5
    assert metrics["windows_per_s"] == pytest.approx(8 / metrics["step_s"])


def test_a_restart_forgets_the_past(meter):
    meter.add(0, out(100.0), clips(1))
    meter.end_step(0, FINE)
    meter.restart()
    meter.add(1, out(1.0), clips(1))
    meter.end_step(1, FINE)
    assert meter.read()["loss"] == 1


def test_the_share_of_waiting_is_measured(meter):
    with meter.waiting():
        time.sleep(0.05)
    meter.add(0, out(1.0), clips(1))
    meter.end_step(0, FINE)
    assert 0.9 < meter.read()["data_wait_share"] <= 1


CLIP_ID = "0123456789abcdef0123456789abcdef"
CLIP_KEY = int(CLIP_ID[:16], 16) >> 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_first_step_and_clips(meter, bad):
    for step, loss, key in ((4, 1.0, 11), (5, bad, CLIP_KEY), (6, float("nan"), 13)):
        meter.add(step, out(loss), clips(key))
        meter.end_step(step, FINE)
    with pytest.raises(NonFiniteLossError, match=f"loss of step 5 .* with: {CLIP_ID[:15]}[.]"):
        meter.read()


def test_gradients_that_are_not_finite_are_seen_before_the_next_loss_is(meter):
    for step, norm, key in ((4, FINE, 11), (5, BAD, CLIP_KEY), (6, BAD, 13)):
        meter.add(step, out(1.0), clips(key))
        meter.end_step(step, norm)
    with pytest.raises(NonFiniteLossError, match=f"gradient of step 5 .* with: {CLIP_ID[:15]}[.]"):
        meter.read()


def test_skipped_steps_are_counted_and_named_and_in_no_mean():
    meter = Meter(torch.device("cpu"), 8, max_skipped_steps=2)
    for step, loss, key in ((0, 1.0, 1), (1, float("nan"), CLIP_KEY), (2, 3.0, 2)):
        meter.add(step, out(loss), clips(key))
        assert meter.end_step(step, torch.tensor(loss)) == (step != 1)
    metrics = meter.read()
    assert metrics["loss"] == 2 and metrics["skipped_steps"] == 1
    assert metrics["windows_per_s"] == pytest.approx(8 / metrics["step_s"])
    assert meter.skipped_clips() == [{"step": 1, "clip_ids_begin_with": [CLIP_ID[:15]]}]


def test_too_many_skipped_steps_in_a_row_are_an_error_at_once():
    meter = Meter(torch.device("cpu"), 8, max_skipped_steps=2)
    for step, norm in enumerate((BAD, BAD, FINE, BAD, BAD)):
        meter.add(step, out(1.0), clips(CLIP_KEY))
        meter.end_step(step, norm)
        meter.restart()  # reports in between change nothing
    meter.add(5, out(1.0), clips(CLIP_KEY))
    with pytest.raises(NonFiniteLossError, match=f"3 steps in a row.* step 5 .*{CLIP_ID[:15]}"):
        meter.end_step(5, BAD)


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


def test_wandb_offline_keeps_its_run_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    ids = []
    for start_step in (0, 5, 0):
        log = MetricsLog(str(tmp_path), start_step, "offline", config=None)
        log.write(start_step + 5, {"loss": 1.0})
        log.close()
        ids.append(storage.read_text(str(tmp_path / "wandb_id")))
    assert ids[0] == ids[1] != ids[2]
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 3


def test_a_metric_counts_where_it_is_defined_and_is_absent_where_it_never_is(meter):
    meter.add(0, out(1.0, rank=float("nan"), spread=2.0, never=float("nan")), clips(1))
    meter.add(0, out(3.0, rank=4.0, spread=4.0, never=float("inf")), clips(2))
    meter.end_step(0, FINE)
    metrics = meter.read()
    assert (metrics["loss"], metrics["rank"], metrics["spread"]) == (2, 4, 3)
    assert "never" not in metrics


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
    log = MetricsLog(str(tmp_path), 0, wandb="offline")
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
    log.close()
    assert len(read_metrics(str(tmp_path))) == 2
    (note,) = read_notes(str(tmp_path))
    assert note["text"].startswith("wandb: ConnectionError: wandb is gone. The work goes on")


def test_a_wandb_that_does_not_start_is_noted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    MetricsLog(str(tmp_path), 0, wandb="auto").write(1, {"loss": 1.0})
    assert len(read_metrics(str(tmp_path))) == 1 and len(read_notes(str(tmp_path))) == 1
