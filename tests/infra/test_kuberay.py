"""The Kubernetes manifests, against KubeRay's own schemas and against what they have to hold."""

import copy
import gzip
import shlex
from typing import Any

import jsonschema
import pytest
import yaml

from lafp.config import load_config
from ray_jobs import pipeline
from ray_jobs.studies.pipeline_config import PipelineConfig
from tests.conftest import SHARED
from tests.infra.conftest import INFRA, ROOT

MANIFESTS = {
    name: yaml.safe_load((INFRA / "kuberay" / f"{name}.yaml").read_text())
    for name in ("raycluster", "rayjob")
}
CLUSTER = MANIFESTS["raycluster"]["spec"]
JOB = MANIFESTS["rayjob"]["spec"]
HEAD, *GROUPS = CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]
PODS = {
    "head": HEAD["template"]["spec"],
    **{group["groupName"]: group["template"]["spec"] for group in GROUPS},
    "submitter": JOB["submitterPodTemplate"]["spec"],
}
RAY_PODS = {name: pod for name, pod in PODS.items() if name != "submitter"}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema as JSON schema, in which a field that the CRD does not name is an error."""
    out = dict(schema)
    if "properties" in out:
        out["properties"] = {name: strict(field) for name, field in out["properties"].items()}
        if not out.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    elif isinstance(out.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(out["additionalProperties"])
    if "items" in out:
        out["items"] = strict(out["items"])
    if out.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return out


@pytest.fixture(scope="session", params=MANIFESTS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def validator(name) -> jsonschema.Draft202012Validator:
    path = SHARED / "data" / "kuberay" / f"ray.io_{name}s.yaml.gz"
    if not path.exists():
        pytest.skip("KubeRay's schemas are not here")
    crd = yaml.load(gzip.decompress(path.read_bytes()), Loader=yaml.CSafeLoader)["spec"]
    [version] = [v for v in crd["versions"] if v["name"] == "v1"]
    assert crd["names"]["kind"] == MANIFESTS[name]["kind"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    return jsonschema.Draft202012Validator(schema)


def test_manifest_is_what_kuberay_takes(name, validator):
    assert MANIFESTS[name]["apiVersion"] == "ray.io/v1"
    validator.validate(MANIFESTS[name])


def paths_to_mappings(node: Any, path: tuple = ()) -> list[tuple]:
    """Where in a manifest the CRD knows every key: not in maps of free keys."""
    free = {"metadata", "rayStartParams", "requests", "limits"}
    if isinstance(node, list):
        return [p for i, item in enumerate(node) for p in paths_to_mappings(item, (*path, i))]
    if not isinstance(node, dict) or (path and path[-1] in free):
        return []
    below = [p for key, value in node.items() for p in paths_to_mappings(value, (*path, key))]
    return [path, *below]


def test_a_misspelt_field_is_refused_wherever_it_stands(name, validator):
    paths = paths_to_mappings(MANIFESTS[name])
    assert len(paths) > 40
    for path in paths:
        manifest = copy.deepcopy(MANIFESTS[name])
        mapping = manifest
        for key in path:
            mapping = mapping[key]
        key = next(iter(mapping))
        mapping[f"{key}x"] = mapping.pop(key)
        assert not validator.is_valid(manifest), f"{key}x passes at {path}"


def test_a_number_where_ray_wants_a_string_is_refused(name, validator):
    manifest = copy.deepcopy(MANIFESTS[name])
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    spec["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    assert not validator.is_valid(manifest)


def test_the_job_runs_on_the_cluster_of_the_other_manifest():
    assert JOB["rayClusterSpec"] == CLUSTER


def test_ray_has_the_version_of_the_image():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if line)
    assert CLUSTER["rayVersion"] == pins["ray"]


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_memory_and_cpu_requests_are_the_limits(pod):
    for container in pod["containers"]:
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert resources["requests"] == resources["limits"]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["groupName"])
def test_ray_counts_the_cpus_and_gpus_that_the_pod_asks_for(group):
    [container] = group["template"]["spec"]["containers"]
    requests, params = container["resources"]["requests"], group["rayStartParams"]
    assert params["num-cpus"] == requests["cpu"]
    assert params.get("num-gpus") == requests.get("nvidia.com/gpu")
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_head_takes_no_tasks():
    assert HEAD["rayStartParams"]["num-cpus"] == "0"


def test_the_smallest_cluster_holds_what_the_job_asks_for():
    """``ray_jobs.core.cluster.connect`` counts the nodes that are there when the job starts."""
    python, dash_m, module, config, *rest = shlex.split(JOB["entrypoint"])
    assert (python, dash_m, module) == ("python", "-m", "ray_jobs.pipeline")
    overrides, options = rest[: rest.index("--storage")], rest[rest.index("--storage") :]
    assert options[1].startswith("s3://")
    path = ROOT / config.removeprefix("/app/")
    wanted = pipeline.JOB.resources(load_config(PipelineConfig, path, overrides))

    def total(key: str) -> int:
        return sum(g["minReplicas"] * int(g["rayStartParams"].get(key, 0)) for g in GROUPS)

    assert 0 < wanted.num_cpus <= total("num-cpus")
    assert 0 < wanted.num_gpus <= total("num-gpus")


def test_the_decode_group_shrinks_to_nothing_and_goes_to_spot_nodes():
    [decode] = [group for group in GROUPS if group["groupName"] == "decode"]
    assert CLUSTER["enableInTreeAutoscaling"]
    assert decode["minReplicas"] == 0 < decode["maxReplicas"]
    assert any("spot" in str(t) for t in decode["template"]["spec"]["tolerations"])


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pods_do_not_run_as_root(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("pod", RAY_PODS.values(), ids=RAY_PODS)
def test_ray_pods_are_probed_where_ray_answers_without_a_token(pod):
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    public = {*PUBLIC_EXACT_PATHS, "/api/gcs_healthz"}  # the second is the dashboard's
    for container in pod["containers"]:
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["path"] in public


def test_a_stopped_job_has_time_to_save_a_checkpoint():
    env = {item["name"]: item["value"] for item in PODS["head"]["containers"][0]["env"]}
    assert int(env["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


@pytest.mark.parametrize("pod", RAY_PODS.values(), ids=RAY_PODS)
def test_storage_comes_from_a_secret_by_name(pod):
    for container in pod["containers"]:
        assert container["envFrom"] == [{"secretRef": {"name": "lafp-storage"}}]


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_no_secret_stands_in_a_manifest(pod):
    for container in pod["containers"]:
        for item in container.get("env", []):
            assert not any(word in item["name"] for word in ("AWS", "KEY", "SECRET", "TOKEN"))
