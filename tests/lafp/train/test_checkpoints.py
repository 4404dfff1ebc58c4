"""Checkpoints stored in the background: whole or not there, kept, read back, no silent failure."""

import json
import resource
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafp import storage
from lafp.storage import FullError, StorageError
from lafp.train.checkpoint_files import damage_of, is_whole
from lafp.train.checkpoints import Checkpoints, DamagedCheckpointsError
from lafp.train.config import TrainConfig
from lafp.train.context import LocalContext
from lafp.train.loop import train
from lafp.train.notes import read_notes
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


# ---------------------------------------------------------------------------------------------
# Damage


def two_checkpoints(uri: str, folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(uri, num_to_keep=2)
    for step in (10, 20):
        checkpoints.save(written(folder / str(step), f"weights {step}"), step)
        checkpoints.wait()
    return checkpoints


@contextmanager
def downloaded(uri: str):
    """As a worker gets the files of a checkpoint on S3."""
    with tempfile.TemporaryDirectory() as folder:
        for info in storage.list_files(uri):
            path = Path(folder, info.uri.removeprefix(uri).lstrip("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(storage.read_bytes(info.uri))
        yield Path(folder)


DAMAGES = {
    "bit_flip": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("how", [*DAMAGES, "missing"])
@pytest.mark.parametrize("name", ["deepspeed/optimizer.pt", "model.pt", "rank-00000.json"])
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_older_one_is_taken(
    uri, tmp_path, name, how
):
    if (name, how) == ("rank-00000.json", "missing"):
        pytest.skip("without its card a checkpoint is one that was never finished")
    two_checkpoints(uri, tmp_path)
    damaged = f"{uri}/checkpoints/step-000000020/{name}"
    if how == "missing":
        storage.delete(damaged)
    else:
        storage.write_bytes(damaged, DAMAGES[how](storage.read_bytes(damaged)))
    with Checkpoints(uri, num_to_keep=2).restored(downloaded) as folder:
        assert (folder / "model.pt").read_text() == "weights 10"
    names = storage.list_folders(uri + "/checkpoints")
    assert names == ["damaged-step-000000020", "step-000000010"]
    (note,) = read_notes(uri)
    assert "checkpoint of step 20 is damaged" in note["text"] and name in note["text"]


def test_files_of_others_in_a_checkpoint_do_not_matter(tmp_path):
    uri = str(tmp_path / "run")
    two_checkpoints(uri, tmp_path)
    newest = tmp_path / "run/checkpoints/step-000000020"
    for name in ("rank-00000 2.json", "rank-00000.json.tmp", ".DS_Store", "._model.pt"):
        (newest / name).write_text("something else")
    (newest / "empty").mkdir()
    (newest.parent / "step-000000030").mkdir()  # a checkpoint that was never finished
    with Checkpoints(uri, num_to_keep=2).restored() as folder:
        assert folder == newest


def test_what_is_set_aside_neither_counts_nor_goes_and_its_step_can_be_saved_again(tmp_path):
    uri = str(tmp_path / "run")
    for _ in range(2):  # damaged, saved anew, damaged again
        two_checkpoints(uri, tmp_path)
        (tmp_path / "run/checkpoints/step-000000020/model.pt").write_text("something else")
        with Checkpoints(uri, num_to_keep=2).restored() as folder:
            assert folder.name == "step-000000010"
    checkpoints = Checkpoints(uri, num_to_keep=1)
    checkpoints.save(written(tmp_path / "30"), 30)
    checkpoints.finish()
    names = storage.list_folders(uri + "/checkpoints")
    assert names == ["damaged-step-000000020", "damaged-step-000000020-2", "step-000000030"]


def test_without_a_sound_checkpoint_the_run_stops_instead_of_beginning_anew_unasked(tmp_path):
    uri = str(tmp_path / "run")
    two_checkpoints(uri, tmp_path)
    for path in (tmp_path / "run/checkpoints").glob("*/model.pt"):
        path.write_text("something else")
    with (
        pytest.raises(DamagedCheckpointsError, match="again to train from step 0"),
        Checkpoints(uri, num_to_keep=2).restored(),
    ):
        pass
    with Checkpoints(uri, num_to_keep=2).restored() as folder:
        assert folder is None


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, bytes]:
    """The files of a checkpoint of two ranks."""
    folder = tmp_path_factory.mktemp("sound")
    for rank in (0, 1):
        checkpoints = Checkpoints(str(folder), num_to_keep=1, rank=rank, world_size=2)
        local = folder / f"local-{rank}"
        local.mkdir()
        (local / f"rank_{rank}.pt").write_bytes(bytes(range(40)) * 3)
        checkpoints.save(local, 10)
        checkpoints.wait()
    checkpoint = folder / "checkpoints" / "step-000000010"
    return {path.name: path.read_bytes() for path in sorted(checkpoint.iterdir())}


@settings(deadline=None)
@given(data=st.data())
def test_any_byte_of_any_file_that_changes_is_found_or_changes_nothing(sound, data):
    """Also in the lists of files: what is not found must mean the same as before."""
    name = data.draw(st.sampled_from(sorted(sound)))
    at = data.draw(st.integers(0, len(sound[name]) - 1))
    changed = bytearray(sound[name])
    changed[at] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        for other, content in sound.items():
            Path(folder, other).write_bytes(bytes(changed) if other == name else content)
        shares = [damage_of(Path(folder), range(rank, 10, 2)) for rank in (0, 1)]
        is_whole(folder)  # must not raise either
    if shares == [None, None]:
        assert name.endswith(".json") and json.loads(changed) == json.loads(sound[name])


# ---------------------------------------------------------------------------------------------
# Full disks


@contextmanager
def files_of_at_most(num_bytes: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_local_disk_is_named_and_nothing_is_left_on_it(tmp_path, monkeypatch):
    """A limit on the size of files gives torch's writer the error that a full disk gives it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shards = write_shard_set(tmp_path / "shards", num_clips=10)
    cfg = TrainConfig(num_steps=4, global_batch_size=8, checkpoint_every_steps=2)
    (tmp_path / "run").mkdir()
    with (
        files_of_at_most(20_000),
        pytest.raises(FullError, match=r"checkpoint takes about \d+ MiB.*TMPDIR") as full,
    ):
        train(cfg, ToyTask(shards, width=64), LocalContext(str(tmp_path / "run")))
    assert str(tmp_path) in str(full.value)
    assert not list(tmp_path.glob("lafp-checkpoint-*"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_storage_is_named_half_a_checkpoint_goes_and_the_older_one_stays(
    small_disk, tmp_path
):
    checkpoints = Checkpoints(str(small_disk), num_to_keep=2)
    checkpoints.save(written(tmp_path / "10"), 10)
    checkpoints.wait()
    checkpoints.save(written(tmp_path / "20", "w" * 700_000), 20)
    with pytest.raises(FullError, match=r"No space left.*MiB are free in .*step-000000020.*room"):
        checkpoints.wait()
    assert not (tmp_path / "20").exists()
    assert not [path for path in small_disk.rglob("step-000000020/**/*") if path.is_file()]
    with Checkpoints(str(small_disk), num_to_keep=2).restored() as folder:
        assert folder.name == "step-000000010"


def test_what_a_killed_worker_has_left_on_the_local_disk_goes_at_the_next_start(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    uri = str(tmp_path / "run")
    for rank in (0, 3):
        with Checkpoints(uri, 1, rank, world_size=4).writing(1) as folder:
            (folder / "half.pt").write_text("half")
    assert len(list(tmp_path.glob("lafp-checkpoint-*"))) == 2
    with Checkpoints(uri, 1).restored():
        assert not list(tmp_path.glob("lafp-checkpoint-*"))
