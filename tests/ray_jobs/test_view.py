"""The command `lafp view`, as a process: from its start to Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.shard_tables import upload_folder
from tests.signals import hear_interrupts
from tests.synthetic_shards import write_shard_set

ROOT = Path(__file__).parents[2]


@contextmanager
def viewing(uri: str, *args: str, env: dict | None = None):
    """The process and the URL that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.view", uri, "--no-browser", *args],
        cwd=ROOT,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", lines[1])
        assert found, process.communicate(timeout=60)
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


def json_of(url: str, path: str) -> dict:
    with urlopen(url + path, timeout=60) as answer:
        return json.load(answer)


def run(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ray_jobs.view", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_until_it_is_interrupted_and_ends_cleanly(tmp_path, number):
    shards = write_shard_set(tmp_path / "shards")
    with viewing(shards) as (process, url):
        assert json_of(url, "api/0/clips")["total"] == 12
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and "Stopped." in said and errors == ""


def test_it_starts_neither_ray_nor_torch(tmp_path):
    code = (
        "import sys, runpy\n"
        "from lafp.view.server import ViewServer\n"
        "ViewServer.serve_forever = lambda self: print({'ray', 'torch'} & set(sys.modules))\n"
        f"sys.argv = ['view', {write_shard_set(tmp_path)!r}, '--no-browser']\n"
        "runpy.run_module('ray_jobs.view', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr


def test_a_set_on_s3_is_served_and_leaves_nothing_behind(tmp_path, s3_bucket):
    folder = tmp_path / "set"
    write_shard_set(folder, num_clips=6)
    upload_folder(folder, f"{s3_bucket}/run/shards/videos")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with viewing(f"{s3_bucket}/run", env={"TMPDIR": str(scratch)}) as (process, url):
        (first, *_) = json_of(url, "api/0/clips")["rows"]
        with urlopen(f"{url}media/0/clip/{first['shard']}/{first['clip_id']}.mp4") as answer:
            assert answer.read()[4:8] == b"ftyp"
        with urlopen(f"{url}media/0/frame/{first['shard']}/{first['clip_id']}/0.jpg") as answer:
            assert answer.read()[:2] == b"\xff\xd8"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert list(scratch.iterdir()) == []


def test_a_set_without_clips_shows_its_rejects(tmp_path):
    from data_pipelines.preprocess.manifest import write_reject_rows
    from data_pipelines.preprocess.rejects import RejectRow

    row = RejectRow(video_uri="a.mp4", start_s=0.0, end_s=1.0, reason="dark")
    write_reject_rows(str(tmp_path), [row])
    with viewing(str(tmp_path)) as (_, url):
        assert json_of(url, "api/sets")["sets"][0]["spec"] is None
        assert json_of(url, "api/0/rejects")["rows"][0]["video_uri"] == "a.mp4"
        assert json_of(url, "api/0/clips") == {"total": 0, "rows": []}
        with pytest.raises(HTTPError, match="404"):
            json_of(url, "api/0/clip/x")


def test_where_nothing_can_be_viewed_one_line_says_what_to_name(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "gone")):
        done = run(path)
        assert done.returncode == 2 and done.stderr.startswith(f"Error: Nothing to view at {path}")
        assert "Traceback" not in done.stderr and "lafp preprocess" in done.stderr


@pytest.mark.parametrize("name", ["clips/part-00000.parquet", "shard_set.json", "manifest.parquet"])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name):
    shards = write_shard_set(tmp_path)
    (tmp_path / name).write_bytes(b"no table")
    done = run(shards)
    assert done.returncode == 2 and done.stderr.startswith("Error: ") and "damaged" in done.stderr
    assert name in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_or_none_is_one_line(tmp_path):
    shards = write_shard_set(tmp_path)
    with viewing(shards) as (_, url):
        port = url.split(":")[2].partition("/")[0]
        done = run(shards, "--no-browser", "--port", port)
        assert done.returncode == 2 and f"Error: --port {port} cannot be used" in done.stderr
        assert "Traceback" not in done.stderr
    assert "expected 1 to 65535" in run(shards, "--port", "70000").stderr


def test_the_browser_gets_the_address_in_a_file_of_the_user_alone(tmp_path):
    """Every user of a machine can read the arguments of a process."""
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\nprintf %s "$1" > {tmp_path}/argument\ncp "${{1#file://}}" {tmp_path}/page\n'
        f'stat -c %a "$(dirname "${{1#file://}}")" > {tmp_path}/mode\n'
    )
    browser.chmod(0o700)
    shards = write_shard_set(tmp_path / "shards")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.view", shards],
        cwd=ROOT,
        env=os.environ | {"DISPLAY": ":0", "BROWSER": str(browser)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )
    try:
        process.stdout.readline()
        url = re.search(r"http\S+", process.stdout.readline())[0]
        assert urlopen(url, timeout=60).status == 200  # by then the browser was called
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    token = url.rstrip("/").rpartition("/")[2]
    assert token not in (tmp_path / "argument").read_text()
    assert f"url={url}" in (tmp_path / "page").read_text()
    assert (tmp_path / "mode").read_text().strip() == "700"
