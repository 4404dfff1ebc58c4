import json
import time

import pytest
import torch

from lafp import storage
from lafp.train.metrics import Meter, MetricsLog, NonFiniteLossError, read_metrics
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


@pytest.fixture
def meter() -> Meter:
    return Meter(torch.device("cpu"), windows_per_step=8)


def test_metrics_are_means_over_the_interval(meter):
    meter.add(0, out(1.0, part=2.0), clips(1))
    meter.add(0, out(2.0, part=4.0), clips(2))
    meter.add(1, out(6.0, part=9.0), clips(3))
    metrics = meter.read()
    assert metrics["loss"] == 3 and metrics["part"] == 5
    assert metrics["windows_per_s"] == pytest.approx(8 / metrics["step_s"])


def test_a_restart_forgets_the_past(meter):
    meter.add(0, out(100.0), clips(1))
    meter.restart()
    meter.add(1, out(1.0), clips(1))
    assert meter.read()["loss"] == 1


def test_the_share_of_waiting_is_measured(meter):
    with meter.waiting():
        time.sleep(0.05)
    meter.add(0, out(1.0), clips(1))
    assert 0.9 < meter.read()["data_wait_share"] <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_its_first_step_and_clips(meter, bad):
    clip_id = "0123456789abcdef0123456789abcdef"
    meter.add(4, out(1.0), clips(11))
    meter.add(5, out(bad), clips(int(clip_id[:16], 16) >> 1))
    meter.add(6, out(float("nan")), clips(13))
    with pytest.raises(NonFiniteLossError, match=f"step 5 .* begin with: {clip_id[:15]}"):
        meter.read()


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
