"""The watchdog: silence becomes an error that says what waits for what."""

import time

import pytest
import ray
from ray.util import placement_group

from lafp import storage
from lafp.runs.run_dir import StageDir
from lafp.storage import UnreachableError
from ray_jobs.core.cluster import start_local
from ray_jobs.core.job import JobError
from ray_jobs.core.watchdog import Watchdog


@pytest.fixture
def one_cpu():
    start_local(1)
    yield
    ray.shutdown()


@pytest.fixture
def no_waiting(monkeypatch):
    """Time passes where somebody sleeps only, at once."""
    now_s = 0.0

    def sleep(seconds):
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now_s)


def ask_for(watchdog, running, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        watchdog.check(lambda: running)
        time.sleep(0.05)


@pytest.mark.usefixtures("no_waiting")
def test_a_stage_that_writes_is_left_alone(tmp_path):
    watchdog = Watchdog(0.5)
    for n in range(10):
        (tmp_path / "log.txt").write_text("." * n)
        ask_for(watchdog, {"lam of seed_0": StageDir(str(tmp_path), "lam")}, 0.2)


@pytest.mark.usefixtures("no_waiting")
def test_a_stage_that_has_not_written_yet_is_waited_for(tmp_path):
    running = {"lam of seed_0": StageDir(str(tmp_path / "soon"), "lam")}
    ask_for(Watchdog(2), running, 1.9)


@pytest.mark.usefixtures("no_waiting")
def test_nothing_running_is_no_stall():
    ask_for(Watchdog(0.2), {}, 0.8)


@pytest.mark.usefixtures("one_cpu")
def test_a_stage_that_waits_for_cpus_is_named_with_what_it_waits_for(tmp_path):
    placement_group([{"CPU": 3}], name="training workers of lam")
    running = {"lam of seed_0": StageDir(str(tmp_path), "lam")}
    with pytest.raises(JobError) as error:
        ask_for(Watchdog(0.5), running, 20)
    text = str(error.value)
    assert "No progress for" in text and f"running: lam of seed_0 ({tmp_path}/log.txt)" in text
    assert "1 of 1 CPUs free" in text and "waits for 3 CPU: training workers of lam" in text


@pytest.mark.usefixtures("one_cpu")
def test_storage_that_does_not_answer_is_no_stall_and_a_stall_after_it_is_seen(
    tmp_path, monkeypatch
):
    watchdog, running = Watchdog(0.5), {"lam of seed_0": StageDir(str(tmp_path), "lam")}
    ask_for(watchdog, running, 0.2)
    asked = []

    def unreachable(uri):
        asked.append(uri)
        raise UnreachableError(f"{uri}: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "list_files", unreachable)
        ask_for(watchdog, running, 1)
    assert asked
    ask_for(watchdog, running, 0.2)
    with pytest.raises(JobError, match="No progress for"):
        ask_for(watchdog, running, 20)
