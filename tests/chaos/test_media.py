"""Broken videos for the decoding process: a few in the gate, hundreds in the slow run."""

import pytest

from tests.chaos.media import decode


@pytest.mark.parametrize("num_videos", [10, pytest.param(1_000, marks=pytest.mark.slow)])
def test_a_broken_video_costs_itself_and_every_second_is_accounted_for(num_videos, tmp_path):
    found = decode(range(num_videos), 1, tmp_path)
    assert not found.faults
    assert found.num_inputs == num_videos
