"""What storage and jobs make of an S3 that errs, stalls, breaks off, loses its answers and lies."""

import pytest

from lafp.runs import lease
from tests.chaos.faulty_s3 import faulty_s3
from tests.chaos.s3_faults import Trial
from tests.s3_server import point_to_s3


@pytest.mark.parametrize(
    "num_operations", [30, pytest.param(1_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("lies", [0.0, 0.3], ids=["faults", "lies"])
def test_reads_and_writes_give_what_they_give_on_a_good_s3(
    s3_server, s3_bucket, tmp_path, monkeypatch, num_operations, lies
):
    """Without the patience of workers, as a driver."""
    import boto3

    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.02)
    truth = boto3.client("s3")
    with faulty_s3(s3_server["AWS_ENDPOINT_URL"], 1, 0.0 if lies else 0.2, lies) as proxy:
        point_to_s3(monkeypatch, proxy.url)
        liar = (proxy, truth) if lies else ()
        trial = Trial(f"{s3_bucket}/run", tmp_path, 1, *liar)
        trial.run(num_operations)
    assert trial.faults == []
    assert sum(trial.refused.values()) < num_operations / 2
    assert sum(proxy.faults.values()) > num_operations / 20
