"""Jobs of a user without a home folder, with a read-only one, or without a name."""

import getpass
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lafp import storage
from lafp.config import ConfigError
from ray_jobs.core import home
from ray_jobs.core.early_checks import storage_uri

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
READ_ONLY = "/proc"  # for root too


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The environment as it was, after the test; temporary folders go to ``tmp_path``."""
    for name in (*home._CACHES, *home._RAY_TOKENS, *NAMES, "HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_home_that_is_missing_is_replaced(scratch, monkeypatch):
    monkeypatch.setenv("HOME", f"{READ_ONLY}/nonexistent")
    home.make_usable()
    assert Path.home().parent == scratch
    (Path.home() / "cache").mkdir()


def test_a_read_only_home_stays_and_caches_go_elsewhere(scratch, monkeypatch, capsys):
    monkeypatch.setenv("HOME", READ_ONLY)
    monkeypatch.setenv("MPLCONFIGDIR", "/set/by/the/user")
    home.make_usable()
    assert os.environ["HOME"] == READ_ONLY
    assert os.environ["MPLCONFIGDIR"] == "/set/by/the/user"
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(scratch)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 32
    assert f"{READ_ONLY} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", home._RAY_TOKENS)
def test_no_token_is_made_up_for_who_has_one_or_joins_a_cluster(scratch, monkeypatch, name):
    monkeypatch.setenv("HOME", READ_ONLY)
    monkeypatch.setenv(name, "given")
    home.make_usable()
    assert os.environ.get("RAY_AUTH_TOKEN", "given") == "given"


def test_a_home_that_can_be_written_is_left_alone(scratch, monkeypatch):
    (scratch / "me").mkdir()
    monkeypatch.setenv("HOME", str(scratch / "me"))
    monkeypatch.setenv("USER", "me")
    before = dict(os.environ)
    home.make_usable()
    assert dict(os.environ) == before
    assert list(scratch.iterdir()) == [scratch / "me"] and not list((scratch / "me").iterdir())


def test_a_user_without_a_name_gets_one(scratch, monkeypatch):
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    home.make_usable()
    assert getpass.getuser() == "uid-12345"


def test_outputs_below_a_home_that_is_missing_are_refused(monkeypatch):
    monkeypatch.setenv("HOME", f"{READ_ONLY}/nonexistent")
    with pytest.raises(ConfigError, match=r"'~' is no folder here .* Write the path in full"):
        storage_uri("~/runs")
    monkeypatch.delenv("HOME")

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert storage.absolute("~/x") == f"{Path.cwd()}/~/x"  # a source: no such file
    with pytest.raises(ConfigError, match="'~' is no folder here"):
        storage_uri("~/runs")


def test_a_job_is_imported_and_planned_all_the_same(tmp_path):
    command = [sys.executable, "-m", "ray_jobs.pipeline", "configs/pipeline/slalom.yaml"]
    done = subprocess.run(
        [*command, "--storage", str(tmp_path), "--dry-run"],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"HOME": f"{READ_ONLY}/nonexistent"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "resources:" in done.stdout
