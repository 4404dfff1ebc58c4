"""Side channels fail alone, and say so once."""

import contextlib
import os
import sys

import pytest

from lafp.runs.progress import Progress
from lafp.runs.side_channel import SideChannel


def test_the_first_failure_is_said_and_no_failure_gets_out():
    said: list[str] = []
    channel = SideChannel("wandb", said.append)
    done = []
    for attempt in range(3):
        with channel.guarded():
            raise OSError(28, "No space left on device")
        done.append(attempt)
    assert done == [0, 1, 2]
    assert len(said) == 1
    assert said[0].startswith(
        "wandb: OSError: [Errno 28] No space left on device. The work goes on"
    )


def test_what_is_gone_for_a_while_is_tried_again():
    tried = []
    channel = SideChannel("gauges", lambda _: None)
    for is_gone in (False, True, False):
        with channel.guarded():
            if is_gone:
                raise ConnectionError
            tried.append(is_gone)
    assert tried == [False, False]


def test_an_interruption_is_no_failure_of_a_side_channel():
    with pytest.raises(KeyboardInterrupt), SideChannel("gauges").guarded():
        raise KeyboardInterrupt


def test_progress_survives_a_terminal_that_is_gone(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", broken)
    with Progress("lam", 10, "steps") as progress:
        progress.update(10)
        progress.say("a line")
    with pytest.raises(BrokenPipeError):  # it was broken indeed
        broken.write("x\n")
    with contextlib.suppress(BrokenPipeError):
        broken.close()
