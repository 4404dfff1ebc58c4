"""How far preprocessing says that it is, against how far it is."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.preprocess.file_counts import FileCounts
from data_pipelines.preprocess.parts_progress import PartsProgress
from data_pipelines.preprocess.plan import Plan, Task
from data_pipelines.preprocess.rows import VideoItem
from lafp.runs import progress as progress_module


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def task(*sizes: int, share: float = 1.0) -> Task:
    items = tuple(
        VideoItem(uri=f"{number}.mp4", num_bytes=size, split=None)
        for number, size in enumerate(sizes)
    )
    return Task(part="000000/part-000000", items=items, share=share)


def plan(*tasks: Task) -> Plan:
    sizes = [item.num_bytes for task in tasks for item in task.items]
    return Plan(
        work="",
        num_chunks=1,
        num_items=len(sizes),
        num_bytes=sum(sizes),
        num_unsized=sizes.count(0),
        files=FileCounts().table(),
    )


def test_a_short_file_is_a_small_share_of_the_time_however_many_files_there_are(clock, capsys):
    short, long = task(1_000_000), task(99_000_000)
    work = PartsProgress("videos", plan(short, long))
    clock[0] = 20.0
    work.add(short, {}, video_s=10.0, opened_bytes=0)
    work.show("3 clips, 1 reject")
    assert capsys.readouterr().err == (
        "[preprocess videos] 1/2 videos, 10 s of about 16 min 40 s of video (1 %), "
        "0.5 x real time, 33 min 0 s left  3 clips, 1 reject\n"
    )
    clock[0] = 2000.0
    work.add(long, {}, video_s=990.0, opened_bytes=0)
    work.show("")
    assert work.is_done
    line = capsys.readouterr().err
    assert "2/2 videos, 16 min 40 s of video, 0.5 x real time" in line and "left" not in line


def test_what_an_earlier_run_made_speeds_nothing_up(clock, capsys):
    found, made, left = task(80), task(10), task(10)
    work = PartsProgress("videos", plan(found, made, left))
    clock[0] = 100.0
    work.found(found, [])
    work.add(made, {}, video_s=50.0, opened_bytes=0)
    work.show("")
    line = capsys.readouterr().err
    assert "2/3 videos, 50 s of about 1 min 40 s of video (90 %), 0.5 x real time" in line
    assert "1 min 40 s left" in line


def test_a_long_video_counts_as_its_pieces_are_done(clock, capsys):
    whole, piece = task(60, 40), task(60, share=1 / 3)
    work = PartsProgress("videos", plan(whole))
    work.add(whole, {0: 3}, video_s=10.0, opened_bytes=0)
    assert not work.is_done
    clock[0] = 20.0
    work.add(piece, {}, video_s=5.0, opened_bytes=0)
    work.show("")
    assert "1/2 videos, 15 s of about 25 s of video (60 %)" in capsys.readouterr().err
    for _ in range(2):
        work.add(piece, {}, video_s=5.0, opened_bytes=0)
    assert work.is_done


def test_pieces_that_an_interrupted_run_left_are_not_counted_as_found(clock):
    whole, piece = task(60, 40), task(60, share=1 / 3)
    work = PartsProgress("videos", plan(whole))
    work.found(whole, [piece])
    assert not work.is_done
    work.add(piece, {}, video_s=5.0, opened_bytes=0)
    assert work.is_done


def test_sizes_that_only_opening_tells_are_taken_to_be_as_those_opened_before(clock, capsys):
    tasks = [task(0) for _ in range(4)]
    work = PartsProgress("urls", plan(*tasks))
    clock[0] = 20.0
    work.add(tasks[0], {}, video_s=30.0, opened_bytes=5_000_000)
    work.show("")
    assert "1/4 videos, 30 s of about 2 min 0 s of video (25 %)" in capsys.readouterr().err


@given(
    st.lists(
        st.lists(st.integers(0, 10**9), min_size=1, max_size=5),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_any_order_of_any_sizes_ends_at_all_of_it_and_never_above(sizes, data):
    tasks = [task(*of_task) for of_task in sizes]
    work = PartsProgress("videos", plan(*tasks))
    shown: list[str] = []
    work.progress.show = lambda text, is_last: shown.append(text)  # type: ignore[method-assign]
    for one in data.draw(st.permutations(tasks)):
        if data.draw(st.booleans()):
            work.found(one, [])
        else:
            work.add(one, {}, video_s=1.0, opened_bytes=sum(not i.num_bytes for i in one.items))
        work.show("")
    assert work.is_done
    percents = [int(p) for text in shown for p in re.findall(r"\((\d+) %\)", text)]
    assert all(0 <= percent <= 99 for percent in percents)
