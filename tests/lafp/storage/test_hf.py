"""Read datasets of a hub on loopback by hf://, in processes of their own with HF_ENDPOINT."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lafp import storage
from tests import hub_server

ROOT = Path(__file__).parents[3]
REPO = "hf://datasets/me/clips"
DATA = bytes(range(256)) * 4
FILES = {"b/2.bin": DATA, "a.txt": b"a", "b/1 ü.txt": b"", ".gitattributes": b"", "b/c/x": b"x"}
READS = """
import json, os, sys
from lafp import storage
repo = sys.argv[1]
def seen():
    yield [(file.uri, file.num_bytes) for file in storage.list_files(repo)]
    yield [file.uri for file in storage.list_files(f"{repo}/b")]
    yield [storage.list_folders(repo), storage.list_folders(f"{repo}/none")]
    yield [storage.is_file(f"{repo}/{name}") for name in ("a.txt", "b", "none", "b/1 ü.txt")]
    yield [storage.exists(f"{repo}/{name}") for name in ("b", "none")]
    file = f"{repo}/b/2.bin"
    parts = [(0, None), (5, 3), (1020, None), (1020, 99), (2000, 5), (3, 0)]
    yield [storage.read_bytes(file, *part).hex() for part in parts]
    with storage.open_file(file) as opened:
        opened.seek(-2, 2)
        yield [opened.read().hex(), storage.num_bytes(file)]
    with storage.local_file(file) as path:
        yield [path.read_bytes().hex(), path.suffix]
    try:
        storage.read_bytes(f"{repo}/none")
    except FileNotFoundError as error:
        yield str(error)
print(json.dumps(list(seen())))
"""

ASKS = """
import sys
from lafp import storage
try:
    storage.num_bytes(sys.argv[1])
except OSError as error:
    print(type(error).__name__, error)
"""
PRINTS = """
import sys
from lafp import storage
print(storage.read_text(sys.argv[1]))
"""
DOWNLOADS = """
import huggingface_hub
huggingface_hub.snapshot_download("me/clips", repo_type="dataset")
"""


@pytest.fixture(scope="module")
def hub():
    pytest.importorskip("huggingface_hub")
    with hub_server.serving() as hub:
        hub.commit("datasets:me/clips", "main", FILES)
        hub.commit("datasets:me/clips", "second", {"a.txt": b"other"})
        yield hub


def run(hub, cache, code, *args, **env):
    given = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), **env}
    given.setdefault("HF_TOKEN", hub_server.TOKEN)
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True, text=True, cwd=ROOT, env=given, timeout=120,
    )  # fmt: skip


def test_a_dataset_is_read_like_a_folder_also_offline(hub, tmp_path):
    done = run(hub, tmp_path, READS, REPO)
    assert done.returncode == 0, done.stderr
    names = ["a.txt", "b/1 ü.txt", "b/2.bin", "b/c/x"]
    parts = [DATA, DATA[5:8], DATA[1020:], DATA[1020:], b"", b""]
    expected = [
        [[f"{REPO}/{name}", len(FILES[name])] for name in names],
        [f"{REPO}/{name}" for name in names[1:]],
        [["b"], []],
        [True, False, False, True],
        [True, False],
        [part.hex() for part in parts],
        [DATA[-2:].hex(), len(DATA)],
        [DATA.hex(), ".bin"],
        f"No such file: {REPO}/none",
    ]
    assert json.loads(done.stdout) == expected
    assert run(hub, tmp_path, DOWNLOADS).returncode == 0
    hub.requests.clear()
    done = run(hub, tmp_path, READS, REPO, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    # Only the words of the last error differ: there it is a path that is missing.
    assert json.loads(done.stdout)[:-1] == expected[:-1] and hub.requests == []


def test_a_revision_is_read(hub, tmp_path):
    uri = "hf://datasets/me/clips@second/a.txt"
    assert run(hub, tmp_path, PRINTS, uri).stdout == "other\n"


@pytest.mark.parametrize(
    ("uri", "env", "words"),
    [
        ("hf://datasets/me/none/x", {}, "run `hf auth login` or set HF_TOKEN"),
        (f"{REPO}@none/x", {}, "Check the name"),
        (f"{REPO}/a.txt", {"HF_TOKEN": "hf_wrongwrong"}, "HF_TOKEN"),
        (f"{REPO}/a.txt", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        (f"{REPO}/a.txt", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "refused"),
        ("hf://datasets/me", {}, "names no repository"),
    ],
)
def test_what_cannot_be_read_is_one_line_without_the_token(hub, tmp_path, uri, env, words):
    done = run(hub, tmp_path, ASKS, uri, **env)
    assert words in done.stdout and done.stdout.count("\n") == 1, done.stdout + done.stderr
    assert "hf_" not in done.stdout


def test_writes_are_refused_with_what_to_use():
    for write in (
        lambda: storage.write_bytes(f"{REPO}/x", b""),
        lambda: storage.swap(f"{REPO}/x", b"", None),
        lambda: storage.delete(f"{REPO}/x"),
    ):
        with pytest.raises(storage.StorageError, match=r"hf:// is read only.*`lafp push`"):
            write()
