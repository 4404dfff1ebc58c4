"""Which parts run when, and when the share of rejected videos ends the job."""

import pytest

from data_pipelines.preprocess.config import PreprocessConfig, TasksConfig
from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.job import select
from data_pipelines.preprocess.parts import PartCounts, TaskQueue, check_rejects
from data_pipelines.preprocess.parts_progress import PartsProgress
from data_pipelines.preprocess.plan import Task, make_plan
from data_pipelines.preprocess.rows import VideoItem
from lafp.config import ConfigError
from lafp.storage import StorageError

CFG = PreprocessConfig(source="videos", max_reject_fraction=0.9)


def test_a_resumed_job_does_not_judge_the_source_by_what_is_left_of_it():
    rest = PartCounts(num_videos=60, num_empty=60)
    with pytest.raises(ConfigError, match="60 of 60 videos in videos give no clip"):
        check_rejects(CFG, rest)
    check_rejects(CFG, rest, num_others=100)
    with pytest.raises(ConfigError):  # even if all others are good
        check_rejects(CFG, rest, num_others=6)


def test_a_part_that_is_gone_is_named(tmp_path):
    items = [VideoItem(uri="a.mp4", num_bytes=1, split=None)]
    plan = make_plan(items, TasksConfig(), str(tmp_path))
    with pytest.raises(StorageError, match=r"gone: .*/000000/part-000000\.json"):
        select(CFG, plan, str(tmp_path), FileCounts())


def test_pieces_that_are_found_late_run_while_other_tasks_are_pending(tmp_path):
    items = [VideoItem(uri=f"{i}.mp4", num_bytes=1, split=None) for i in range(3)]
    plan = make_plan(items, TasksConfig(videos_per_task=1), str(tmp_path))
    queue = TaskQueue(plan, PartsProgress("videos", plan))
    calls = map(lambda task: task.part, queue)
    names = [f"000000/part-{number:06d}" for number in range(3)]
    assert list(calls) == names
    assert next(calls, None) is None
    # The first task has found that its video is long, and the others still run.
    queue.add(Task(part=f"{names[0]}-{piece}", items=(items[0],)) for piece in "ab")
    assert [next(calls, None) for _ in range(3)] == [f"{names[0]}-a", f"{names[0]}-b", None]
