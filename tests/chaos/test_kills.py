"""A few kills of a cheap job. ``make chaos`` runs hundreds, of all jobs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.jobs import JOBS
from tests.chaos.kills import run


@pytest.mark.parametrize(
    ("job", "num_kills"),
    [
        ("takedown", 3),
        *(pytest.param(job, 8, marks=pytest.mark.slow) for job in JOBS if job != "takedown"),
    ],
)
@pytest.mark.timeout(7200)
def test_a_killed_job_ends_as_an_undisturbed_one_and_leaves_nothing_behind(job, num_kills):
    with TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder:  # short, for Ray's sockets
        campaign = run(job, num_kills, 1, Path(folder))
    assert not campaign.faults
    assert len(campaign.kills) == num_kills
