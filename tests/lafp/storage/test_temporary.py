"""A killed process leaves nothing behind for long, and nothing of a living one is deleted."""

import os
import signal
import subprocess
import sys

import pytest

from lafp import storage
from lafp.runs.lease import owned
from lafp.storage.temporary import (
    TemporaryFolder,
    delete_abandoned,
    delete_unfinished,
    unfinished_file,
)

_FOLDER = (
    "from lafp.storage.temporary import TemporaryFolder as T; t = T(); print(t.name, flush=True)"
)
_OF_A_LIBRARY = (
    "import tempfile; from lafp.storage.temporary import folder_for_libraries as f; c = f(); "
    "c.__enter__(); made = tempfile.mkdtemp(); c.__exit__(None, None, None); "
    "print(made, flush=True)"
)
_FILE = (
    "import pathlib, sys; from lafp.storage.temporary import unfinished_file as u; "
    "c = u(pathlib.Path(sys.argv[1], 'x')); print(c.__enter__(), flush=True)"
)


@pytest.fixture
def started(tmp_path):
    """Starts a process that makes something, names it and waits."""
    processes = []

    def start(code: str):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}; import time; time.sleep(600)", str(tmp_path)],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)},
        )  # fmt: skip
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("code", "delete"),
    [
        (_FOLDER, lambda folder: delete_abandoned(str(folder))),
        (_OF_A_LIBRARY, lambda folder: delete_abandoned(str(folder))),
        (_FILE, delete_unfinished),
    ],
    ids=["folder", "of a library", "file"],
)
def test_what_a_killed_process_leaves_is_deleted_and_what_a_living_one_uses_is_not(
    started, tmp_path, code, delete
):
    process, made = started(code)
    delete(tmp_path)
    assert os.path.exists(made)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.path.exists(made)
    delete(tmp_path)
    assert not os.path.exists(made)


def test_the_first_folder_of_a_process_deletes_those_of_killed_ones(started):
    process, first = started(_FOLDER)
    process.kill()
    process.wait()
    _, second = started(_FOLDER)
    assert os.path.exists(second) and not os.path.exists(first)


def test_the_owner_of_a_folder_deletes_unfinished_files_in_it_at_the_end(started, tmp_path):
    folder = tmp_path / "stage"
    (folder / "work").mkdir(parents=True)
    left = folder / "work" / ".part.json.0123456789ab.tmp"
    left.write_text("half of it")
    others = (folder / ".part.json.tmp", folder / "x.0123456789ab.tmp")
    for other in others:
        other.touch()
    with owned(str(folder), None, print), unfinished_file(folder / "work/y") as ours:
        delete_unfinished(folder)
        assert ours.exists()
    assert not left.exists() and all(other.exists() for other in others)


def test_an_upload_moves_a_file_and_leaves_no_other(tmp_path):
    source, target = tmp_path / "a", tmp_path / "out/b"
    source.write_bytes(b"data")
    storage.upload(source, str(target))
    assert target.read_bytes() == b"data" and not source.exists()
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_a_folder_is_gone_after_its_block_and_its_descriptor_is_closed():
    num_open = len(os.listdir("/proc/self/fd"))
    with TemporaryFolder() as folder:
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_folders_are_made_while_another_process_deletes_what_it_finds(
    started, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    started(
        "import sys; from lafp.storage.temporary import delete_abandoned as d; print(flush=True); "
        "all(d(sys.argv[1]) is None for _ in iter(int, 1))"
    )
    for _ in range(1_000):
        with TemporaryFolder() as folder:
            os.mkdir(os.path.join(folder, "inner"))
