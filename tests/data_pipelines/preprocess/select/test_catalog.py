"""Whose errors are those of the driver's disk."""

import errno
import sqlite3

import pytest

from data_pipelines.preprocess.select.catalog import Catalog, disk_errors
from lafp import storage
from lafp.storage import StorageError


def test_a_full_disk_names_the_scratch_folder(tmp_path):
    catalog = Catalog(tmp_path)
    catalog.db.execute("PRAGMA max_page_count = 20")
    catalog.db.execute("CREATE TABLE large (data BLOB)")
    message = rf"Could not write {tmp_path}, the driver's scratch folder"
    with pytest.raises(StorageError, match=message), disk_errors(tmp_path):
        catalog.db.execute("INSERT INTO large VALUES (?)", (bytes(10**6),))
    catalog.close()
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EACCES, "Permission denied", str(tmp_path / "x")),
        sqlite3.OperationalError("database or disk is full"),
    ):
        with pytest.raises(StorageError, match="scratch folder"), disk_errors(tmp_path):
            raise error


def test_what_is_missing_elsewhere_names_itself(tmp_path, s3_bucket):
    part = storage.join(s3_bucket, "work/000000/part-000000.json")
    with pytest.raises(FileNotFoundError, match=part), disk_errors(tmp_path / "scratch"):
        storage.read_bytes(part)
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file", "/runs/mine/part-000000.tar"),
        StorageError("S3 is away"),
    ):
        with pytest.raises(type(error)) as caught, disk_errors(tmp_path):
            raise error
        assert caught.value is error
