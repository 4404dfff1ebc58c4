"""Pictures of what was rejected, in the report of a run whose source is still there."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lafp.evaluate import images
from lafp.report import distributions
from lafp.report.blocks import Figure, Note, Table, picture
from lafp.report.reject_pictures import originals, reject_pictures
from lafp.report.sections import data
from lafp.runs.run_dir import RunDir
from tests.synthetic_run import write_video_run
from tests.synthetic_video import moving_square, write_video


def reject(uri: str, start_s: float, end_s: float, reason: str, original: str | None = None):
    row = {"video_uri": uri, "start_s": start_s, "end_s": end_s, "reason": reason, "detail": ""}
    return row | {"original_clip_id": original}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """The shard set of a run, with rejects of a source that is there."""
    folder = tmp_path_factory.mktemp("runs")
    path = write_video(folder / "static.mp4", moving_square(40))
    (stage,) = RunDir(write_video_run(folder / "run")).complete_below("shards")
    clips = pq.read_table(stage.path("clips/part-00000.parquet")).to_pylist()
    rows = [
        reject(str(path), 0.0, 2.0, "static"),
        reject(str(path), 2.0, 4.0, "near_duplicate", clips[0]["clip_id"]),
        reject(str(folder / "gone.mp4"), 0.0, 2.0, "dark"),
        reject("https://example.org/a.mp4", 0.0, 2.0, "dark"),
        reject(f"{path}#3", 0.0, 2.0, "dark"),
        reject(str(path), 0.0, 0.0, "not_a_video"),
    ]
    pq.write_table(pa.Table.from_pylist(rows), stage.path("rejects.parquet"))
    return stage


def test_rejects_have_pictures_where_the_source_is_there_and_duplicates_two(stage):
    rows = pq.read_table(stage.path("rejects.parquet")).to_pylist()
    assert sorted(reject_pictures(rows)) == [0, 1]
    assert sorted(originals(stage, rows)) == [1]
    section = data.source_section(stage)
    (table,) = [b for b in section.blocks if isinstance(b, Table) and b.head[0] == "Reason"]
    num_pictures = {str(row[0]): str(row[1]).count("<img") for row in table.rows}
    assert num_pictures == {"dark": 0, "near duplicate": 2, "not a video": 0, "static": 1}


def test_a_clip_that_was_taken_down_leaves_its_duplicates_without_a_second_picture(stage):
    rows = [reject("x.mp4", 0.0, 1.0, "near_duplicate", "0123abcd")]
    assert originals(stage, rows) == {}


def test_the_section_names_source_assumptions_and_files_that_were_not_read(stage):
    kind = {"what": ".json", "why": "no video", "files": 3, "example": "/x/a.json"}
    files = {"seen": 10, "read": 7, "left_out": [kind]}
    assumed = {"labels.fps": {"value": 5.0, "videos": 1}}
    stage.finish(stage.summary() | {"assumed": assumed, "files": files})
    blocks = data.source_section(stage).blocks
    assert any("Source: `/data/videos`" in getattr(block, "text", "") for block in blocks)
    (note,) = [block for block in blocks if isinstance(block, Note)]
    assert "`labels.fps` was assumed to be 5 for 1 video" in note.text
    (table,) = [b for b in blocks if isinstance(b, Table) and b.head[0] == "Not read"]
    assert table.rows[0][-1] == "3" and "7 of 10 files" in table.caption


@pytest.mark.parametrize("side_px", [1, 4, 16, 30, 400])
def test_no_frame_is_enlarged_more_than_four_times(side_px):
    frame = np.zeros((side_px, max(1, side_px // 2), 3), np.uint8)
    shown = images.thumbnail(frame, 96)
    assert max(shown.shape) <= min(96, 4 * side_px)


def test_no_picture_is_shown_larger_than_its_pixels(stage):
    figure = picture(images.png(np.zeros((20, 33, 3), np.uint8)), alt="")
    assert figure.max_width_px == 33
    for block in data.source_section(stage).blocks:
        if isinstance(block, Figure):
            assert block.max_width_px


@pytest.mark.parametrize("values", [[4.0, 4.0000001, 4.0000002], [1e-7, 2e-7, 3e-7], [1e8, 2e8]])
def test_no_axis_is_labelled_with_an_offset_or_a_power(values):
    x = values * 5 + [values[0] * (1 + 1e-8 * n) for n in range(9)]
    svg = distributions.histograms({"x": x}).svg()
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)
    assert texts
    assert not [text for text in texts if re.search(r"1e|\\times|10\^", text)]


def test_one_clip_of_one_video_is_said_in_the_singular(stage):
    assert "1 clips" not in str(data.source_section(stage).blocks)
