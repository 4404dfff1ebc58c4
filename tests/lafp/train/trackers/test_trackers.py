"""Trackers, with the real libraries: what they hold after a start, a kill and a resume."""

import json
import struct
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from lafp import storage
from lafp.config import ConfigError, config_from_dict
from lafp.train.config import TrainConfig
from lafp.train.metrics.log import MetricsLog, read_metrics
from lafp.train.notes import read_notes
from lafp.train.trackers import TRACKERS
from lafp.train.trackers.tensorboard import TensorBoardConfig
from lafp.train.trackers.wandb import WandbConfig


def train_twice(uri: str, tracker) -> None:
    """Logs steps 1 to 3, then goes on from step 2 with 3 and 4, as after a kill."""
    first = MetricsLog(uri, 0, tracker, config=None)
    for step in (1, 2, 3):
        first.write(step, {"loss": 1 / step, "bad": float("nan")})
    first.close()
    second = MetricsLog(uri, 2, tracker, config=None)
    for step in (3, 4):
        second.write(step, {"loss": 10.0 + step})
    second.close()
    assert read_notes(uri) == []


EXPECTED = {1: 1.0, 2: 0.5, 3: 13.0, 4: 14.0}


# -------------------------------------------------------------------------------------------------
# wandb


@pytest.fixture
def quiet_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


def wandb_records(path: Path):
    """Records of a ``.wandb`` file: a log of blocks as LevelDB has it, with a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # the rest of a block that holds no header
            at += 2**15 - at % 2**15
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def wandb_curve(folder: Path, metric: str) -> tuple[set[str], dict[int, float]]:
    """Ids of the runs in an offline folder, and a metric by step."""
    (path,) = folder.glob("*.wandb")
    ids, curve = set(), {}
    for record in wandb_records(path):
        if record.HasField("run"):
            ids.add(record.run.run_id)
        if record.HasField("history"):
            items = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            if metric in items:
                curve[items["_step"]] = items[metric]
    return ids, curve


def test_wandb_offline_has_one_folder_with_all_steps_after_a_resume(tmp_path, quiet_wandb):
    train_twice(str(tmp_path), WandbConfig(mode="offline"))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    deadline = time.monotonic() + 60  # wandb's own process writes the file, and is not waited for
    while len((found := wandb_curve(folder, "loss"))[1]) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    ids, curve = found
    assert ids == {(tmp_path / "tracker_id").read_text()}
    assert curve == EXPECTED


def test_wandb_offline_keeps_the_run_before_one_that_begins_anew(tmp_path, quiet_wandb):
    ids = []
    for start_step in (0, 5, 0):
        log = MetricsLog(str(tmp_path), start_step, WandbConfig(mode="offline"))
        log.write(start_step + 5, {"loss": 1.0})
        log.close()
        ids.append((tmp_path / "tracker_id").read_text())
    assert ids[0] == ids[1] != ids[2]
    folders = {path.name[-12:] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert folders == {ids[0], ids[2]}


# -------------------------------------------------------------------------------------------------
# TensorBoard


def events(folder: Path):
    """Events of all files of a folder, in the order of their names, as TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length


def tensorboard_curve(folder: Path, metric: str) -> dict[int, float]:
    """A metric by step, without the steps that a later start says it does again."""
    curve: dict[int, float] = {}
    for event in events(folder):
        if event.session_log.status == event.session_log.START:
            curve = {step: value for step, value in curve.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == metric:
                curve[event.step] = value.simple_value
    return curve


@pytest.mark.parametrize("where", ["local", "s3"])
def test_tensorboard_shows_one_curve_after_a_resume(tmp_path, where, request):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    uri = str(tmp_path / "lam")
    if where == "s3":
        uri = request.getfixturevalue("s3_bucket") + "/run/lam"
    train_twice(uri, TensorBoardConfig())
    folder = tmp_path / "lam/tensorboard"
    if where == "s3":
        storage.download_folder(storage.join(uri, "tensorboard"), folder)
    assert tensorboard_curve(folder, "loss") == EXPECTED
    assert tensorboard_curve(folder, "bad") == {}


def test_tensorboard_itself_reads_it(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    train_twice(str(tmp_path), TensorBoardConfig())
    found = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {event.step: event.value for event in found.Scalars("loss")} == EXPECTED


# -------------------------------------------------------------------------------------------------
# Trackio


def test_trackio_has_one_run_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio import Api
    from trackio.sqlite_storage import SQLiteStorage

    from lafp.train.trackers.trackio import TrackioConfig

    uri = str(tmp_path / "run/lam")
    train_twice(uri, TrackioConfig())
    (run,) = Api().runs("lafp")
    assert run.name == f"run/lam-{(tmp_path / 'run/lam/tracker_id').read_text()}"
    curve = defaultdict(list)
    for row in SQLiteStorage.get_logs("lafp", run.name):
        curve[row["step"]].append(row["loss"])
    assert {step: values[-1] for step, values in curve.items()} == EXPECTED


# -------------------------------------------------------------------------------------------------
# Config


def test_a_tracker_is_chosen_by_name():
    raw = {"num_steps": 1, "global_batch_size": 4, "optim": {"lr": 0.1, "warmup_steps": 0}}
    assert config_from_dict(TrainConfig, raw).tracker is None
    for name in TRACKERS.names():
        assert config_from_dict(TrainConfig, raw | {"tracker": {"name": name}}).tracker.name == name
    with pytest.raises(ConfigError, match="tensorboard, trackio, wandb"):
        config_from_dict(TrainConfig, raw | {"tracker": {"name": "mlflow"}})
    with pytest.raises(ConfigError, match="mode"):
        config_from_dict(TrainConfig, raw | {"tracker": {"name": "wandb", "mode": "sometimes"}})


def test_a_tracker_that_is_not_installed_is_noted_and_the_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    log = MetricsLog(str(tmp_path), 0, TensorBoardConfig())
    log.write(1, {"loss": 1.0})
    log.close()
    (note,) = read_notes(str(tmp_path))
    assert note["text"].startswith("tensorboard: ")
    assert len(read_metrics(str(tmp_path))) == 1
