"""Single pictures out of videos, whatever the videos do to the process that decodes them."""

from pathlib import Path

import numpy as np
import pytest

from lafp.video.stills import Still, read_stills
from tests import hostile_decoder as hostile
from tests.synthetic_video import moving_square, write_video

HOSTILE = Path(__file__).parents[2] / "hostile"


def still(path: Path, time_s: float = 1.0) -> Still:
    return Still(str(path), time_s, 64)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_the_picture_is_the_one_of_its_time_and_is_never_enlarged(tmp_path, decoder):
    frames = np.full((30, 48, 64, 3), 20, np.uint8)
    frames[15:] = 220
    path = write_video(tmp_path / "v.mp4", frames, fps=10.0)
    wanted = [still(path, 1.0), still(path, 2.0), Still(str(path), 0.0, 16)]
    found = read_stills(wanted, 60.0, video_decoder=decoder)
    assert [round(float(found[n].mean()), -1) for n in range(3)] == [20, 220, 20]
    assert found[0].shape == (48, 64, 3)
    assert found[2].shape == (12, 16, 3)


def test_a_time_behind_the_end_gives_the_last_picture(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(20))
    assert 0 in read_stills([still(path, 99.0)], 60.0)


def test_what_is_no_video_costs_its_own_picture_only(tmp_path):
    (tmp_path / "no.mp4").write_bytes(b"<html>not found</html>" * 100)
    path = write_video(tmp_path / "v.mp4", moving_square(20))
    wanted = [still(tmp_path / "no.mp4"), still(path), still(tmp_path / "missing.mp4"), still(path)]
    assert sorted(read_stills(wanted, 60.0)) == [1, 3]


@pytest.mark.parametrize("command", [hostile.SEGFAULT, hostile.SEGFAULT_IN_PROBE])
def test_a_video_that_kills_its_process_costs_its_own_picture_only(tmp_path, monkeypatch, command):
    for folder in (HOSTILE.parents[1], HOSTILE):
        monkeypatch.syspath_prepend(folder)
    one_key = {"crf": "12", "g": "1000"}
    killer = write_video(tmp_path / "killer.mp4", moving_square(command), options=one_key)
    path = write_video(tmp_path / "v.mp4", moving_square(20))
    wanted = [still(path), still(killer, 5.0), still(path)]
    assert sorted(read_stills(wanted, 120.0, video_decoder="hostile")) == [0, 2]


def test_without_time_there_are_no_pictures(tmp_path):
    path = write_video(tmp_path / "v.mp4", moving_square(20))
    assert read_stills([still(path)], 0.0) == {}
    assert read_stills([], 60.0) == {}
