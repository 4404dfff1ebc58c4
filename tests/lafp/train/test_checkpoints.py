"""Checkpoints stored in the background: whole or not there, kept, read back, no silent failure."""

import json
import threading
import time
from pathlib import Path

import pytest

from lafp import storage
from lafp.storage import StorageError
from lafp.train.checkpoints import Checkpoints, is_whole
from lafp.train.config import TrainConfig
from lafp.train.context import LocalContext
from lafp.train.loop import train
from tests.synthetic_shards import write_shard_set
from tests.toy_task import ToyTask


@pytest.fixture(params=["local", "s3"])
def uri(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return request.getfixturevalue("s3_bucket") + "/run"


def written(folder: Path, text: str = "weights") -> Path:
    """What an engine leaves on the local disk."""
    (folder / "deepspeed").mkdir(parents=True)
    (folder / "deepspeed" / "optimizer.pt").write_text(text)
    (folder / "model.pt").write_text(text)
    return folder


def steps(uri: str) -> list[int]:
    return [int(name[5:]) for name in storage.list_folders(uri + "/checkpoints")]


def test_the_last_whole_one_is_found_with_all_its_files(uri, tmp_path):
    checkpoints = Checkpoints(uri, num_to_keep=2)
    assert checkpoints.start() is None
    for step in (10, 20):
        local = written(tmp_path / str(step), f"weights {step}")
        checkpoints.save(local, step)
        checkpoints.wait()
        assert not local.exists()
    latest = Checkpoints(uri, num_to_keep=2).start()
    assert latest == uri + "/checkpoints/step-000000020"
    assert storage.read_text(latest + "/deepspeed/optimizer.pt") == "weights 20"


def test_only_the_newest_are_kept(uri, tmp_path):
    checkpoints = Checkpoints(uri, num_to_keep=2)
    for step in (5, 10, 15, 20):
        checkpoints.save(written(tmp_path / str(step)), step)
        checkpoints.wait()
    assert steps(uri) == [15, 20]


def test_what_one_rank_has_not_stored_does_not_count_and_replaces_nothing(uri, tmp_path):
    """Killed while 20 was under way, the run goes on from 10 and writes 20 anew."""
    ranks = [Checkpoints(uri, num_to_keep=1, rank=rank, world_size=2) for rank in (0, 1)]
    for step, saving in ((10, ranks), (20, ranks[:1])):
        for index, rank in enumerate(saving):
            rank.save(written(tmp_path / f"{step}-{index}"), step)
            rank.wait()
    assert steps(uri) == [10, 20] and not is_whole(uri + "/checkpoints/step-000000020")
    alone = Checkpoints(uri, num_to_keep=1)
    assert alone.start() == uri + "/checkpoints/step-000000010"
    assert steps(uri) == [10]
    alone.save(written(tmp_path / "again"), 20)
    alone.finish()
    assert steps(uri) == [20] and is_whole(uri + "/checkpoints/step-000000020")


def test_saving_does_not_wait_but_the_next_one_and_the_end_do(tmp_path, monkeypatch):
    may_go_on, upload = threading.Event(), storage.upload

    def slow_upload(*args):
        assert may_go_on.wait(60)
        upload(*args)

    monkeypatch.setattr(storage, "upload", slow_upload)
    checkpoints = Checkpoints(str(tmp_path / "run"), num_to_keep=1)
    checkpoints.save(written(tmp_path / "10"), 10)
    checkpoints.check()
    assert not is_whole(str(tmp_path / "run" / "checkpoints" / "step-000000010"))
    threading.Timer(0.3, may_go_on.set).start()
    start = time.monotonic()
    checkpoints.finish()
    assert time.monotonic() - start > 0.2
    assert is_whole(str(tmp_path / "run" / "checkpoints" / "step-000000010"))


def test_a_checkpoint_that_cannot_be_stored_stops_training(tmp_path):
    shards = write_shard_set(tmp_path / "shards", num_clips=10)
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    cfg = TrainConfig(num_steps=10_000, global_batch_size=8, checkpoint_every_steps=2)
    with pytest.raises(StorageError, match=r"Could not write .*checkpoints/step-000000002"):
        train(cfg, ToyTask(shards), LocalContext(str(tmp_path)))


def test_a_checkpoint_that_reads_otherwise_is_not_one_and_the_older_stays(tmp_path, monkeypatch):
    """A disk that flips a bit: seen when the files are read back, before the older one would go."""
    uri = str(tmp_path / "run")
    checkpoints = Checkpoints(uri, num_to_keep=1)
    checkpoints.save(written(tmp_path / "10"), 10)
    checkpoints.wait()
    upload = storage.upload

    def upload_and_flip(local, uri):
        upload(local, uri)
        data = bytearray(Path(uri).read_bytes())
        data[0] ^= 1
        Path(uri).write_bytes(data)

    monkeypatch.setattr(storage, "upload", upload_and_flip)
    checkpoints.save(written(tmp_path / "20"), 20)
    with pytest.raises(StorageError, match="reads otherwise than it was written"):
        checkpoints.wait()
    assert Checkpoints(uri, num_to_keep=1).start() == uri + "/checkpoints/step-000000010"


def test_a_card_names_every_file_and_its_checksum(tmp_path):
    checkpoints = Checkpoints(str(tmp_path / "run"), num_to_keep=1)
    checkpoints.save(written(tmp_path / "10"), 10)
    checkpoints.finish()
    card = tmp_path / "run" / "checkpoints" / "step-000000010" / "rank-00000.json"
    assert json.loads(card.read_text())["crc32"].keys() == {"model.pt", "deepspeed/optimizer.pt"}
