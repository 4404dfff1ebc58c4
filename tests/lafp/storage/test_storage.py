"""The same contract on a local folder and on real APIs of S3, Google Cloud Storage and Azure."""

import os
import threading
import time
from collections import Counter

import boto3
import numpy as np
import pytest
from botocore.config import Config

from lafp import storage
from lafp.storage.clients import s3
from lafp.storage.map_ahead import map_ahead
from lafp.storage.remote import Lent, PerProcess
from tests.cable import Cable
from tests.http_server import answer, serving
from tests.peak_memory import peak_bytes
from tests.s3_server import point_to_s3


@pytest.fixture(params=["local", "s3", "gs", "az"])
def root(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "root")
    return request.getfixturevalue(f"{request.param}_bucket")


def test_what_is_written_is_read_back(root):
    uri = storage.join(root, "a", "b.bin")
    storage.write_bytes(uri, b"0123456789")
    assert storage.read_bytes(uri) == b"0123456789"
    assert storage.read_bytes(uri, offset=2, length=3) == b"234"
    assert storage.read_bytes(uri, offset=8) == b"89"
    assert storage.read_bytes(uri, 5, 0) == storage.read_bytes(uri, 0, 0) == b""
    assert storage.num_bytes(uri) == 10
    with storage.local_file(uri) as path:
        assert path.read_bytes() == b"0123456789"


def test_upload_moves_the_file(root, tmp_path):
    local = tmp_path / "local.bin"
    local.write_bytes(b"x" * 100)
    storage.upload(local, storage.join(root, "up.bin"))
    assert storage.num_bytes(storage.join(root, "up.bin")) == 100
    assert not local.exists()


def test_listing_is_recursive_sorted_and_leaves_hidden_files_out(root):
    for name in ("b/2.txt", "a.txt", "b/1 ü.txt", ".hidden", "b/.tmp/x"):
        storage.write_bytes(storage.join(root, name), b"1")
    listed = list(storage.list_files(root))
    names = [item.uri.removeprefix(root).strip("/") for item in listed]
    assert names == ["a.txt", "b/1 ü.txt", "b/2.txt"]
    assert {item.num_bytes for item in listed} == {1}


def test_what_is_deleted_while_a_folder_is_listed_is_left_out(tmp_path):
    for name in ("a", "b", "c/x", "d"):
        storage.write_bytes(str(tmp_path / name), b"1")
    listing = storage.list_files(str(tmp_path))
    names = [next(listing).uri]
    (tmp_path / "b").unlink()
    storage.delete_folder(str(tmp_path / "c"))
    names += [info.uri for info in listing]
    assert names == [str(tmp_path / "a"), str(tmp_path / "d")]


def test_folders_directly_below_are_listed_without_what_is_inside(root):
    for name in ("b/c/2.txt", "a/1.txt", "top.txt", ".hidden/x"):
        storage.write_bytes(storage.join(root, name), b"1")
    assert storage.list_folders(root) == ["a", "b"]
    assert storage.list_folders(storage.join(root, "missing")) == []


@pytest.mark.parametrize("store", ["s3", "gs", "az"])
def test_a_folder_of_a_store_is_copied_with_the_folders_in_it(request, store, tmp_path):
    bucket = request.getfixturevalue(f"{store}_bucket")
    for name in ("run/1/a.txt", "run/1/b/c.txt", "run/10/other.txt"):
        storage.write_text(f"{bucket}/{name}", name)
    storage.download_folder(f"{bucket}/run/1", tmp_path / "copy")
    copied = {p: p.read_text() for p in (tmp_path / "copy").rglob("*") if p.is_file()}
    names = {"a.txt": "run/1/a.txt", "b/c.txt": "run/1/b/c.txt"}
    assert copied == {tmp_path / "copy" / path: name for path, name in names.items()}


def test_a_folder_is_moved_whole(root):
    for name in ("old/last", "old/a/b", "older/x"):
        storage.write_text(storage.join(root, name), name)
    storage.move_folder(storage.join(root, "old"), storage.join(root, "new"), first="last")
    found = {info.uri.removeprefix(f"{root}/") for info in storage.list_files(root)}
    assert found == {"new/last", "new/a/b", "older/x"}
    assert storage.read_text(storage.join(root, "new/a/b")) == "old/a/b"


def test_files_of_a_folder_are_deleted_and_moved_many_at_a_time(s3_bucket, monkeypatch):
    num_open, most = Counter(), Counter()

    def slow(name):
        function, lock = getattr(storage.s3, name), threading.Lock()

        def call(*args):
            with lock:
                num_open[name] += 1
                most[name] = max(most[name], num_open[name])
            time.sleep(0.1)
            function(*args)
            with lock:
                num_open[name] -= 1

        monkeypatch.setattr(storage.s3, name, call)

    for number in range(12):
        storage.write_bytes(f"{s3_bucket}/old/{number}", b"x")
    slow("delete")
    slow("copy")
    storage.move_folder(f"{s3_bucket}/old", f"{s3_bucket}/new", first="3")
    assert len(list(storage.list_files(s3_bucket))) == 12
    assert min(most["copy"], most["delete"]) > 4
    most.clear()
    storage.delete_folder(f"{s3_bucket}/new")
    assert most["delete"] > 4 and not list(storage.list_files(s3_bucket))


def test_a_large_file_is_uploaded_and_read_in_parts(root, tmp_path):
    data = np.random.default_rng(0).bytes(9 * 2**20 + 1)  # more than one request takes
    (tmp_path / "large").write_bytes(data)
    uri = storage.join(root, "large")
    storage.upload(tmp_path / "large", uri)
    assert storage.read_bytes(uri) == data
    assert storage.read_bytes(uri, 2**23 - 5, 10) == data[2**23 - 5 : 2**23 + 5]
    assert storage.read_bytes(uri, len(data) - 3, 100) == data[-3:]
    assert storage.read_bytes(uri, len(data) + 3, 100) == b""
    with storage.open_file(uri) as file:
        assert file.read() == data


def test_missing_files_are_told_apart_from_empty_ones(root):
    uri = storage.join(root, "missing")
    assert not storage.exists(uri)
    assert not storage.is_file(uri)
    assert list(storage.list_files(uri)) == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)
    storage.delete(uri)
    storage.write_bytes(uri, b"")
    assert storage.is_file(uri)
    assert storage.read_bytes(uri) == b""
    storage.delete(uri)
    assert not storage.is_file(uri)


def test_a_folder_exists_but_is_no_file(root):
    storage.write_bytes(storage.join(root, "f", "x"), b"1")
    assert storage.exists(storage.join(root, "f"))
    assert not storage.is_file(storage.join(root, "f"))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    uri = str(tmp_path / "x")
    storage.write_bytes(uri, b"old")
    monkeypatch.setattr(storage.local.os, "replace", _out_of_space)
    with pytest.raises(OSError, match="No space"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def _out_of_space(*_):
    raise OSError("No space left on device")


def test_a_dead_endpoint_is_a_storage_error_that_names_the_uri(monkeypatch):
    monkeypatch.setattr(s3, "NUM_TRIES", 1)
    point_to_s3(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(storage.StorageError, match="Could not read s3://bucket/key"):
        storage.read_bytes("s3://bucket/key")


@pytest.mark.parametrize("given", [{}, {"AWS_ACCESS_KEY_ID": "half"}])
def test_missing_credentials_are_said_with_what_to_set(monkeypatch, tmp_path, given):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(key, raising=False)
    nowhere = {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "a"),
        "AWS_CONFIG_FILE": str(tmp_path / "b"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for key, value in (nowhere | given).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(s3, "client", PerProcess(s3.new_client))
    with pytest.raises(
        storage.StorageError, match=r"look up s3://bucket/key: .*Set AWS_ACCESS_KEY_ID"
    ):
        storage.is_file("s3://bucket/key")


def test_threads_share_a_client_that_may_be_shared_and_a_forked_process_has_its_own():
    made = []
    client = PerProcess(lambda: made.append(os.getpid()) or len(made))
    assert set(map_ahead(lambda _: client(), range(50))) == {1}
    child = os.fork()
    if not child:
        os._exit(0 if client() == 2 and made[-1] == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert client() == 1 and made == [os.getpid()]


def test_a_client_that_may_not_be_shared_is_lent_to_one_thread_at_a_time():
    made, used = [], Counter()
    clients = Lent(lambda: made.append(0) or len(made))

    def use(_):
        with clients() as client:
            used[client] += 1
            assert used[client] == 1
            time.sleep(0.001)
            used[client] -= 1

    for _ in range(3):  # each time in threads of its own
        list(map_ahead(use, range(50)))
    assert 1 < len(made) <= 16


def test_joined_uris_have_single_slashes():
    assert storage.join("s3://b/", "/a/", "c") == "s3://b/a/c"
    assert storage.join("/", "a") == "/a"
    assert storage.absolute("s3://b/k") == "s3://b/k"
    assert storage.absolute("x").endswith("/x")


def test_a_file_is_read_anywhere(root, monkeypatch):
    monkeypatch.setattr(storage.remote, "_READ_BYTES", 7)
    data = bytes(range(100))
    storage.write_bytes(storage.join(root, "x"), data)
    with storage.open_file(storage.join(root, "x")) as file:
        assert file.read(10) == data[:10]
        file.seek(90)
        assert file.read(50) == data[90:]
        file.seek(5)
        assert file.read() == data[5:]
    with pytest.raises(FileNotFoundError):
        storage.open_file(storage.join(root, "missing"))


def test_the_rest_of_an_object_is_one_request(monkeypatch):
    asked = []

    class Store:
        def look_up(self, uri):
            return storage.ObjectInfo(num_bytes=10**6)

        def read_bytes(self, uri, offset, length, version):
            asked.append((offset, length))
            return bytes(length)

    with storage.remote.open_file("s3://b/k", Store()) as file:
        file.seek(10)
        assert len(file.read()) == 10**6 - 10
    assert asked == [(10, 10**6 - 10)]


@pytest.mark.parametrize("change", [0, 1])
def test_parts_of_two_versions_of_an_object_are_never_mixed(s3_bucket, change):
    uri = f"{s3_bucket}/object"
    storage.write_bytes(uri, b"a" * 10_000)
    with storage.open_file(uri) as file:
        storage.write_bytes(uri, b"b" * (10_000 + change))
        if change:
            with pytest.raises(storage.ChangedError, match="overwritten while it was read"):
                file.read(10)
            return
        file.seek(-10, 2)
        assert file.read() == b"b" * 10, "nothing had been read, and the size is the same"
        storage.write_bytes(uri, b"c" * 10_000)
        file.seek(0)
        with pytest.raises(storage.ChangedError):
            file.read(10)


def test_an_answer_of_s3_that_breaks_off_is_asked_for_again(monkeypatch):
    def breaks(handler, before):
        answer(handler, 200, b"01234" if before < 2 else b"0123456789", length=10)

    with serving() as host:
        host.answers["/bucket/x"] = breaks
        point_to_s3(monkeypatch, host.url)
        assert storage.read_bytes("s3://bucket/x") == b"0123456789"
        host.answers["/bucket/x"] = lambda handler, _: answer(handler, 200, b"01", length=10)
        with pytest.raises(storage.StorageError, match="Could not read s3://bucket/x"):
            storage.read_bytes("s3://bucket/x")


@pytest.mark.parametrize("num_files", [0, 1, 4, 5, 9, 10, 11, 37])
def test_a_folder_too_large_for_memory_is_listed_in_the_same_order(
    tmp_path, monkeypatch, num_files
):
    (tmp_path / "folder").mkdir()
    names = np.random.default_rng(num_files).permutation(num_files)
    for number in names:
        (tmp_path / f"{number % 7}_{number}.mp4").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "folder/x.mp4").touch()
    whole = [info.uri for info in storage.list_files(str(tmp_path))]
    assert len(whole) == num_files + 1 and whole == sorted(whole)
    monkeypatch.setattr(storage.local, "_LISTED_AT_ONCE", 5)
    assert [info.uri for info in storage.list_files(str(tmp_path))] == whole


def test_listing_does_not_hold_a_folder_in_memory(tmp_path, monkeypatch):
    for number in range(1500):
        (tmp_path / f"a rather long name of a video file {number:06d}.mp4").touch()

    def read():
        assert sum(1 for _ in storage.list_files(str(tmp_path))) == 1500

    whole = peak_bytes(read)
    monkeypatch.setattr(storage.local, "_LISTED_AT_ONCE", 100)
    assert peak_bytes(read) < whole / 3


def test_pages_of_a_listing_on_s3_are_fetched_when_they_are_needed(s3_bucket, monkeypatch):
    for number in range(5):
        storage.write_bytes(storage.join(s3_bucket, f"{number}.mp4"), b"x")
    asked = []
    client = s3.client()

    def small_page(params, **_):
        asked.append(params)
        return params | {"MaxKeys": 2}

    event = "provide-client-params.s3.ListObjectsV2"
    client.meta.events.register(event, small_page)
    try:
        listed = storage.list_files(s3_bucket)
        assert next(listed).uri.endswith("0.mp4")
        assert len(asked) == 1
        assert [info.uri[-5:] for info in listed] == [f"{number}.mp4" for number in range(1, 5)]
        assert len(asked) == 3
    finally:
        client.meta.events.unregister(event, small_page)


@pytest.fixture
def cable(s3_server, monkeypatch):
    """Between storage and its S3, for a client that hardly tries again by itself."""
    cable = Cable(int(s3_server["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{cable.port}",
        config=Config(retries={"max_attempts": 1}, connect_timeout=1, read_timeout=1),
    )
    monkeypatch.setattr(s3, "client", lambda: client)
    yield cable
    storage.be_patient(0)


REQUESTS = {
    "read": lambda uri, _: storage.read_bytes(uri),
    "look up": lambda uri, _: storage.is_file(uri),
    "write": lambda uri, _: storage.write_bytes(uri, b"new"),
    "upload": lambda uri, file: storage.upload(file, uri),
    "list": lambda uri, _: storage.list_folders(uri.rpartition("/")[0]),
    "delete": lambda uri, _: storage.delete(uri),
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_patient_process_waits_until_storage_is_back(cable, s3_bucket, tmp_path, request_name):
    uri, file = f"{s3_bucket}/a/file", tmp_path / "file"
    storage.write_bytes(uri, b"old")
    file.write_bytes(b"new")
    cable.pull()
    storage.be_patient(60)
    threading.Timer(0.4, lambda: setattr(cable, "is_plugged", True)).start()
    start = time.monotonic()
    REQUESTS[request_name](uri, file)
    assert time.monotonic() - start > 0.3


def test_patience_ends_with_an_error_that_names_the_file(cable, s3_bucket):
    cable.pull()
    start = time.monotonic()
    with pytest.raises(storage.UnreachableError, match=f"Could not read {s3_bucket}/file"):
        storage.read_bytes(f"{s3_bucket}/file")
    impatient_s = time.monotonic() - start
    storage.be_patient(2.0)
    start = time.monotonic()
    with pytest.raises(storage.UnreachableError):
        storage.read_bytes(f"{s3_bucket}/file")
    assert time.monotonic() - start > impatient_s + 0.4


def test_a_missing_file_is_told_at_once_however_patient(cable, s3_bucket):
    storage.be_patient(60)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{s3_bucket}/nothing")
    assert not storage.is_file(f"{s3_bucket}/nothing")
    assert time.monotonic() - start < 10
