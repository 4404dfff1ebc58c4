"""The doctor: a healthy machine, a storage that cannot be written, nodes that differ."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import ray

from lafp.confined import missing_protection
from ray_jobs import doctor
from ray_jobs.core import node_checks
from ray_jobs.core.node_checks import Finding, NodeFacts, look
from tests.integration.ray_cluster import real_cluster

ROOT = Path(__file__).parents[2]


def test_this_machine_passes_and_nothing_is_left_behind(tmp_path):
    facts = look(str(tmp_path), wants_gpu=False)
    assert [f.what for f in facts.findings if f.level == "fail"] == []
    assert all(facts.versions.values())
    assert any("has every codec" in f.what for f in facts.findings)
    said = "\n".join(f.what for f in facts.findings)
    assert re.search(r"video decoder pyav [\d.]+ brings FFmpeg [\d.]+ \(libavcodec [\d.]+\)", said)
    assert re.search(r"video decoder decord [\d.]+ brings libavcodec [\d.]+", said)
    loads = (
        r"video decoder torchcodec \S+ "
        r"(loads FFmpeg [\d.]+\S* \(libavcodec [\d.]+\)|finds no FFmpeg)"
    )
    assert bool(re.search(loads, said)) == (find_spec("torchcodec") is not None)
    missing = missing_protection()
    assert ("decoded without keys, network and writing" in said) == (not missing)
    assert all(name in said for name in missing)
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there_is_named_with_what_to_check(s3_bucket):
    facts = look(f"{s3_bucket}-not-there", wants_gpu=False)
    (failed,) = (f for f in facts.findings if f.level == "fail")
    assert "not-there" in failed.what and "AWS_ENDPOINT_URL" in failed.fix


@pytest.mark.skipif("CUDA_VISIBLE_DEVICES" in os.environ, reason="may have a GPU")
def test_a_gpu_that_only_ray_knows_of_is_a_failure(tmp_path):
    failed = [f for f in look(str(tmp_path), wants_gpu=True).findings if f.level == "fail"]
    assert len(failed) == 1 and "torch" in failed[0].what and "nvidia-smi" in failed[0].fix


def test_nodes_with_other_versions_are_a_failure():
    versions = {"python": "3.11.9", "ray": "2.60.0"}
    one = NodeFacts(host="a", versions=versions, num_gpus=0, findings=())
    other = replace(one, host="b", versions=versions | {"ray": "2.59.0"})
    (finding,) = doctor._differences({"a": one, "b": other})
    assert finding.level == "fail" and finding.what == "nodes differ in ray: a 2.60.0, b 2.59.0"
    assert list(doctor._differences({"a": one, "b": one})) == []


def test_a_package_that_only_one_node_has_is_a_failure():
    with_it = NodeFacts(host="a", versions={"decord": "0.6.0"}, num_gpus=0, findings=())
    without = replace(with_it, host="b", versions={"decord": ""})
    (finding,) = doctor._differences({"a": with_it, "b": without})
    assert finding.level == "fail"
    assert finding.what == "nodes differ in decord: a 0.6.0, b without"


def without(monkeypatch, *hidden: str) -> None:
    """Hides packages as if they were not installed: metadata and modules."""
    found, opened = node_checks.version, importlib.import_module

    def version(name: str) -> str:
        if name in hidden:
            raise PackageNotFoundError(name)
        return found(name)

    def import_module(name: str) -> ModuleType:
        if name in hidden:
            raise ModuleNotFoundError(name)
        return opened(name)

    monkeypatch.setattr(node_checks, "version", version)
    monkeypatch.setattr(node_checks.importlib, "import_module", import_module)


@pytest.mark.parametrize("extra", ["data", "train", "train,s3", "train,decord", "train,s3,decord"])
def test_an_installation_of_the_docs_passes_and_names_the_extras_that_it_lacks(
    extra, tmp_path, monkeypatch
):
    """Every install that has Ray and PyAV: what it leaves out is one line each, and no failure."""
    brought = extra.split(",")
    lacking = {name: of for name, (of, *_) in node_checks.OPTIONAL.items() if of not in brought}
    without(monkeypatch, *lacking)
    findings = look(str(tmp_path), wants_gpu=False).findings
    assert [f.what for f in findings if f.level == "fail"] == []
    said = [f.what for f in findings if "is not installed" in f.what]
    assert len(said) == len(lacking)
    for line, (name, of) in zip(said, lacking.items(), strict=True):
        assert line.startswith(f"{name} is not installed") and f"'lafp[{of}]'" in line
    assert any(f.what == "deepspeed imports" for f in findings) == ("deepspeed" not in lacking)


def test_a_package_that_every_job_needs_is_a_failure(tmp_path, monkeypatch):
    without(monkeypatch, "omegaconf")
    (failed,) = (f for f in look(str(tmp_path), wants_gpu=False).findings if f.level == "fail")
    assert "omegaconf is not installed" in failed.what
    assert failed.fix == "pip install 'lafp[data]'"


def test_the_extras_bring_the_packages_that_the_doctor_says_they_bring():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    for name, (extra, *_) in node_checks.OPTIONAL.items():
        assert any(re.match(rf"{name}\b", requirement) for requirement in extras[extra])


@pytest.fixture
def two_nodes():
    """A head and a second raylet on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.usefixtures("two_nodes")
def test_every_node_is_looked_at_and_the_storage_is_seen_by_all(tmp_path):
    findings = doctor.examine(str(tmp_path))
    assert [f for f in findings if f.level == "fail"] == []
    assert sum("written, read, deleted" in f.what for f in findings) == 2
    assert Finding(level="ok", what=f"{tmp_path} is shared by all 2 nodes") in findings


def test_as_a_command_it_fails_with_what_to_do(tmp_path):
    """A file where the storage's folder should be."""
    (tmp_path / "runs").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "ray_jobs.doctor", "--storage", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL" in done.stdout and "cannot write" in done.stdout and "to do:" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_node_of_a_cluster_that_cannot_reach_the_storage_is_named(s3_bucket, tmp_path):
    """A head, and a node whose S3 lies elsewhere, as `ray start` starts them."""
    elsewhere = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    with real_cluster(tmp_path, os.environ, {"broken": elsewhere}) as cluster:
        done = subprocess.run(
            [sys.executable, "-m", "ray_jobs.doctor", "--storage", s3_bucket],
            cwd=ROOT,
            env=cluster.environment | {"RAY_ADDRESS": cluster.address},
            capture_output=True,
            text=True,
            timeout=300,
        )
        (broken,) = (n for n in cluster.listed("nodes") if n["labels"].get("role") == "broken")
    assert done.returncode == 1, done.stdout + done.stderr
    (failed,) = (line for line in done.stdout.splitlines() if line.startswith("FAIL"))
    assert f"({broken['node_id'][:6]}): cannot write, read and delete in {s3_bucket}" in failed
    assert "AWS_ENDPOINT_URL" in done.stdout and "2 nodes" in done.stdout
