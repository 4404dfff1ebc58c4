"""The cluster file for ``ray up``, against the schema that Ray ships."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import validate_config

from tests.infra.conftest import INFRA

TEXT = (INFRA / "ray" / "aws.yaml").read_text()
CONFIG = yaml.safe_load(TEXT)
NODE_TYPES = CONFIG["available_node_types"]
HEAD = NODE_TYPES[CONFIG["head_node_type"]]
WORKERS = {name: node for name, node in NODE_TYPES.items() if node is not HEAD}


@pytest.fixture(scope="module")
def validator():
    path = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    return jsonschema.Draft7Validator(json.loads(path.read_text()))


def test_config_is_what_ray_takes(validator):
    validator.validate(CONFIG)
    validate_config(CONFIG | {"cluster_synced_files": []})  # which Ray's defaults add


@pytest.mark.parametrize(
    "path", [(), ("auth",), ("docker",), ("available_node_types", "decode")], ids=str
)
def test_a_misspelt_key_is_refused(validator, path):
    config = copy.deepcopy(CONFIG)
    mapping = config
    for key in path:
        mapping = mapping[key]
    key = next(iter(mapping))
    mapping[f"{key}x"] = mapping.pop(key)
    assert not validator.is_valid(config)


def test_every_node_config_is_one_that_ec2_takes():
    """Ray passes ``node_config`` on unchecked; botocore's model of the API checks it here."""
    from botocore.session import Session
    from botocore.validate import ParamValidator

    run_instances = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in NODE_TYPES.values():
        # Ray adds the counts, the subnet and the key pair.
        request = node["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, run_instances)
        assert not report.has_errors(), report.generate_report()
        assert request.keys() <= run_instances.members.keys()


def test_all_groups_fit_the_limit_of_the_cluster():
    assert sum(node["max_workers"] for node in WORKERS.values()) == CONFIG["max_workers"]
    assert all(node["min_workers"] <= node["max_workers"] for node in WORKERS.values())


def test_decode_nodes_are_spot_and_train_nodes_have_gpus():
    decode, train = WORKERS["decode"], WORKERS["train"]
    assert decode["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert decode["min_workers"] == 0
    assert train["resources"]["GPU"] >= 1
    assert HEAD["resources"]["CPU"] == 0


def test_s3_comes_from_instance_profiles_and_no_key_stands_in_the_file():
    for node in NODE_TYPES.values():
        assert ":instance-profile/" in node["node_config"]["IamInstanceProfile"]["Arn"]
    for word in ("AKIA", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "ssh_private_key"):
        assert word not in TEXT


def test_a_stopped_job_has_time_to_save_a_checkpoint():
    [option] = [o for o in CONFIG["docker"]["run_options"] if "RAY_JOB_STOP_WAIT_TIME_S" in o]
    assert int(option.split("=")[1]) >= 60
