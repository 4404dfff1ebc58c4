"""Names that would command a terminal."""

import io
import sys

from lafp.runs.progress import Progress
from lafp.runs.wording import printable


def test_control_characters_are_shown_and_not_obeyed():
    assert printable("\x1b]0;title\x07\x9b31m\r\b\x7f.mp4") == (
        r"\x1b]0;title\x07\x9b31m\r\x08\x7f.mp4"
    )
    assert printable("gpj.\u202e4pm") == "gpj.\\u202e4pm"
    assert printable("two\nlines\tüñ 视频 🎬") == "two\nlines\tüñ 视频 🎬"


def test_a_line_of_progress_obeys_no_name(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress("work", 1, "videos")
    progress.update(1, "a\x1b[2Jb.mp4")
    progress.say("c\x1b[2Jd.mp4")
    assert "\x1b" not in stream.getvalue()
    assert r"a\x1b[2Jb.mp4" in stream.getvalue() and r"c\x1b[2Jd.mp4" in stream.getvalue()
