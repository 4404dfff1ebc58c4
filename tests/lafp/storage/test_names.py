"""Names that are not UTF-8, and what stands where a file is wanted."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafp import storage
from lafp.storage.names import path_of, uri_of_name
from tests.cases import another_user

# Bytes that a file may be called by, among them those that look like an escape.
NAMES = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=3), st.sampled_from([b"\\", b"\\x5c", b"\\xe9", b"x", b"5c"])
    ),
    min_size=1,
    max_size=8,
).map(b"".join)


@given(NAMES, NAMES)
def test_every_name_has_a_uri_of_its_own_that_leads_back(first, second):
    names = [os.fsdecode(name.replace(b"\0", b"0")) for name in (first, second)]
    uris = [uri_of_name(name) for name in names]
    for name, uri in zip(names, uris, strict=True):
        assert json.loads(json.dumps(uri).encode()) == uri.encode().decode() == uri
        if "/" not in name and name not in (".", ".."):
            assert str(path_of(uri)) == name
    assert (uris[0] == uris[1]) == (names[0] == names[1])


def test_common_names_are_their_own_uris():
    for name in (
        "a b",
        "ü 日本 🎬",
        "back\\slash",
        "a%20b",
        "a?b#c",
        "new\nline",
        "\\x41",
        "\\xE9",
    ):
        assert uri_of_name(name) == name


def test_files_with_odd_names_are_written_listed_and_read(tmp_path):
    names = [b"latin\xe9.bin", b"latin\\xe9.bin", b"a\\x5cb", "ü.bin".encode(), b"new\nline"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    listed = [info.uri for info in storage.list_files(str(tmp_path))]
    assert sorted(storage.read_bytes(uri) for uri in listed) == sorted(names)
    for uri in listed:
        assert storage.is_file(uri) and storage.num_bytes(uri) == len(storage.read_bytes(uri))
        storage.write_bytes(uri, b"new")
        assert storage.read_bytes(uri) == b"new"
    assert len(list(tmp_path.iterdir())) == len(names)


def test_a_name_that_no_file_can_have_is_not_found(tmp_path):
    for name in ("a\0b", "x" * 300, "\ud800", "f/x"):
        (tmp_path / "f").write_bytes(b"")
        uri = storage.join(str(tmp_path), name)
        assert not storage.exists(uri) and not storage.is_file(uri)
        with pytest.raises(OSError):
            storage.read_bytes(uri)
        assert list(storage.list_files(uri)) == []


def errors(folder):
    """Name -> what is wrong with it; empty for sound files."""
    listed = storage.list_files(str(folder))
    return {info.uri.removeprefix(f"{folder}/"): str(info.error or "") for info in listed}


def test_what_is_no_file_is_listed_with_what_it_is_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "sound").write_bytes(b"x")
    found = errors(tmp_path)
    assert found.pop("sound") == ""
    for name, word in (
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("loop", "symbolic links"),
        ("nowhere", "does not exist"),
        ("device", "device"),
    ):
        assert word in found.pop(name)
        with pytest.raises(OSError):
            storage.read_bytes(str(tmp_path / name))
        with pytest.raises(OSError):
            storage.open_file(str(tmp_path / name))
    assert found == {}
    with pytest.raises(storage.NotAFileError, match="is a folder"):
        storage.read_bytes(str(tmp_path))


def test_links_between_folders_are_followed_but_never_in_circles(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/x").write_bytes(b"x")
    (tmp_path / "a/b/up").symlink_to("..")
    (tmp_path / "a/b/self").symlink_to(".")
    (tmp_path / "elsewhere").symlink_to("a")
    found = errors(tmp_path)
    assert [name for name, error in found.items() if not error] == ["a/x", "elsewhere/x"]
    circles = {name for name, error in found.items() if "contains it" in error}
    assert circles == {f"{top}/b/{name}" for top in ("a", "elsewhere") for name in ("up", "self")}


def test_folders_a_thousand_deep_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("x").touch()
        (info,) = storage.list_files(str(tmp_path))
        assert info.uri.endswith("/d/d/x")
    finally:
        # Functions that delete whole trees call themselves for each folder, pytest's own too.
        Path("x").unlink(missing_ok=True)
        while not os.path.samefile(".", tmp_path):
            os.chdir("..")
            os.rmdir("d")


def test_what_nobody_may_read_is_listed_with_the_error(tmp_path):
    root = tmp_path / "root"
    (root / "closed").mkdir(parents=True)
    (root / "a").write_bytes(b"x")
    (root / "closed").chmod(0)
    try:
        with another_user(tmp_path):
            assert errors(root)["a"] == ""
            assert "Permission denied" in errors(root)["closed"]
            with pytest.raises(storage.StorageError, match="Permission denied"):
                list(storage.list_files(str(root / "closed")))
            with pytest.raises(storage.AccessDeniedError):
                storage.is_file(str(root / "closed/x"))
    finally:
        (root / "closed").chmod(0o755)


def test_an_object_whose_name_is_longer_than_a_file_name_is_fetched(s3_bucket):
    uri = storage.join(s3_bucket, "k" * 300 + ".mp4")
    storage.write_bytes(uri, b"video")
    with storage.local_file(uri) as path:
        assert (path.read_bytes(), path.suffix) == (b"video", ".mp4")


def test_an_object_in_archive_storage_is_named(s3_bucket):
    import boto3

    bucket = s3_bucket.removeprefix("s3://")
    boto3.client("s3").put_object(Bucket=bucket, Key="x", Body=b"x", StorageClass="GLACIER")
    for read in (storage.read_bytes, lambda uri: storage.local_file(uri).__enter__()):
        with pytest.raises(storage.StorageError, match="archive"):
            read(f"{s3_bucket}/x")
    assert storage.is_reachable(s3_bucket)
