"""What the people who follow a run should know of it, from whatever process found it out."""

import time
from contextlib import suppress
from typing import Any

from lafp import storage
from lafp.runs.side_channel import say_on_stderr
from lafp.storage.json_lines import read_lines
from lafp.storage.strict_json import dump_lines

NOTES_FILE = "notes.jsonl"


def write_note(uri: str, step: int, text: str) -> None:
    """Appends a line to the stage's ``notes.jsonl``, which the driver shows. Rank 0 calls it.

    A worker may run on any node, so nobody reads its own terminal. A note that cannot be written
    is shown there alone.

    Args:
        uri: The stage's folder.
        step: Steps done by then.
        text: One line.
    """
    say_on_stderr(text)
    path = storage.join(uri, NOTES_FILE)
    with suppress(OSError):
        notes = [*read_notes(uri), {"step": step, "at": time.time(), "text": text}]
        storage.write_text(path, dump_lines(notes))


def read_notes(uri: str) -> list[dict[str, Any]]:
    """The notes on a stage, in order."""
    return read_lines(storage.join(uri, NOTES_FILE))
