"""What storage and jobs make of an S3 that errs, stalls, breaks off and loses its answers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.s3_faults import Trial, faulty_s3


@pytest.mark.parametrize(
    "num_operations", [30, pytest.param(1_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_reads_and_writes_give_what_they_give_on_a_good_s3(
    s3_server, s3_bucket, tmp_path, monkeypatch, num_operations
):
    """Without the patience of workers, as a driver."""
    with faulty_s3(s3_server["AWS_ENDPOINT_URL"], seed=1, share=0.2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        trial = Trial(f"{s3_bucket}/run", tmp_path, seed=1)
        with ThreadPoolExecutor(1) as pool:  # a new thread has a new client of this endpoint
            pool.submit(trial.run, num_operations).result()
    assert trial.faults == []
    assert sum(proxy.faults.values()) > num_operations / 20
