"""When the share of rejected videos ends the job."""

import pytest

from data_pipelines.preprocess.config import PreprocessConfig
from data_pipelines.preprocess.parts import PartCounts, check_rejects
from lafp.config import ConfigError

CFG = PreprocessConfig(source="videos", max_reject_fraction=0.9)


def test_a_resumed_job_does_not_judge_the_source_by_what_is_left_of_it():
    rest = PartCounts(num_videos=60, num_empty=60)
    with pytest.raises(ConfigError, match="60 of 60 videos in videos give no clip"):
        check_rejects(CFG, rest)
    check_rejects(CFG, rest, num_others=100)
    with pytest.raises(ConfigError):  # even if all others are good
        check_rejects(CFG, rest, num_others=6)
