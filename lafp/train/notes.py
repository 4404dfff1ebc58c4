"""Stores notes for the people who follow a run. Any process of the run may write one."""

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

    The line also goes to this worker's stderr, which nobody may read, as workers run on any node.
    If the file cannot be written, the line is only there.

    Args:
        uri: The stage's folder.
        step: Number of steps done so far.
        text: One line.
    """
    say_on_stderr(text)
    path = storage.join(uri, NOTES_FILE)
    with suppress(OSError):
        notes = [*read_notes(uri), {"step": step, "at": time.time(), "text": text}]
        storage.write_text(path, dump_lines(notes))


def read_notes(uri: str) -> list[dict[str, Any]]:
    """Returns the notes of a stage, in order."""
    return read_lines(storage.join(uri, NOTES_FILE))
