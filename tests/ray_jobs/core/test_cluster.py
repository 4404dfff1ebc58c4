"""Starting a local Ray where the machine is busy."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
from ray._private import parameter, services
from ray._private.ray_constants import (
    DASHBOARD_ADDRESS,
    DEFAULT_DASHBOARD_AGENT_LISTEN_PORT,
    KV_NAMESPACE_DASHBOARD,
    PROCESS_TYPE_GCS_SERVER,
    PROCESS_TYPE_RAYLET,
)
from ray.experimental import internal_kv

from lafp.report.run_page import ReportConfig
from lafp.runs.run_dir import RunDir
from ray_jobs.core import cluster
from ray_jobs.core.cluster import RayLostError, Resources, connect, expected, start_local
from ray_jobs.core.job import execute
from ray_jobs.report import JOB

SLOW = "The current node timed out during startup. This could happen because some of the raylet ..."


@pytest.fixture
def answers(monkeypatch) -> list[Exception | None]:
    """What the start of a Ray does, call by call: raise, or start."""
    given: list[Exception | None] = []

    def start(num_cpus: int) -> None:
        if (error := given.pop(0)) is not None:
            raise error

    monkeypatch.setattr(cluster, "start_local", start)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return given


def test_a_ray_that_takes_too_long_to_start_is_started_again(answers):
    answers += [Exception(SLOW), Exception(SLOW), None]
    connect(Resources(num_cpus=1))
    assert answers == []


def test_a_ray_that_never_starts_and_one_that_fails_otherwise_are_errors(answers):
    answers += [Exception(SLOW)] * 5
    with pytest.raises(RayLostError, match="did not start within 30 s, in 5 attempts"):
        connect(Resources(num_cpus=1))
    assert answers == []
    answers += [ValueError("no such option"), None]
    with pytest.raises(ValueError, match="no such option"):
        connect(Resources(num_cpus=1))


def test_an_attempt_that_fails_leaves_no_process_to_the_next(monkeypatch):
    def too_late(*_: object) -> None:
        raise Exception(SLOW)

    monkeypatch.setattr(ray._private.services, "get_node", too_late)
    monkeypatch.setattr(cluster, "_NUM_STARTS", 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(RayLostError):
        connect(Resources(num_cpus=1))
    left = [p.name() for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert not left


def killed_with_a_folder_in(folder):
    code = "import os; from lafp.storage.temporary import TemporaryFolder as T; t = T(); os.abort()"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(folder)})
    assert list(folder.iterdir())


def test_the_end_of_a_job_deletes_what_its_killed_workers_left(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed_with_a_folder_in(tmp_path)
    cluster._end_own_ray()
    assert not list(tmp_path.iterdir())


def test_a_job_that_finds_its_stage_complete_deletes_what_a_lost_machine_left(
    monkeypatch, tmp_path
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    run = RunDir(str(tmp_path / "run"))
    stage = run.stage("report")
    stage.begin(ReportConfig(), {})
    stage.finish({"report": "there"})
    killed_with_a_folder_in(scratch)
    job = replace(JOB, is_remade=False, inputs=lambda *_: {})
    assert execute(job, ReportConfig(), run) == {"report": "there"}
    assert not list(scratch.iterdir())


def test_a_ray_that_a_stage_starts_is_large_enough_for_the_stages_after_it(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    num_cpus = 2 * (os.cpu_count() or 1) + 3
    try:
        with expected(Resources(num_cpus=num_cpus)):
            connect(Resources(num_cpus=1))
            connect(Resources(num_cpus=num_cpus))
    finally:
        ray.shutdown()


def test_a_local_ray_starts_only_what_it_needs_and_wants_no_port_of_another():
    before = parameter.RayParams, services.start_api_server
    start_local(1)
    try:
        node = ray._private.worker._global_node
        assert node.dashboard_agent_listen_port not in (0, DEFAULT_DASHBOARD_AGENT_LISTEN_PORT)
        assert set(node.all_processes) == {PROCESS_TYPE_GCS_SERVER, PROCESS_TYPE_RAYLET}
        assert ray.get(ray.remote(lambda: 3).remote()) == 3
        # Ray Train waits at its end until it finds the address.
        assert internal_kv._internal_kv_get(DASHBOARD_ADDRESS, namespace=KV_NAMESPACE_DASHBOARD)
    finally:
        ray.shutdown()
    assert (parameter.RayParams, services.start_api_server) == before


FAULTS = """
from resource import RUSAGE_SELF, getrusage
from ray_jobs.core.cluster import use_huge_pages
use_huge_pages()
import torch
torch.ones(2**24)
before = getrusage(RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.is_file() or "[never]" in HUGE_PAGES.read_text(),
    reason="this system gives no huge pages",
)
def test_large_tensors_lie_in_huge_pages_unless_the_user_has_decided(monkeypatch):
    def num_faults():
        command = [sys.executable, "-c", FAULTS]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    num_small = num_faults()
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    # 64 MiB are 16,384 pages of 4 KiB, which are few where every process gets huge pages.
    assert num_small > 16_000 or "[always]" in HUGE_PAGES.read_text()
    assert num_faults() < 4_000
