"""Threads that meet a type for the first time together. The processes die without the lock."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RACE = """
import sys, threading
from dataclasses import make_dataclass
import msgspec
from lafp.serve import messages
from lafp.storage import strict_json

make = {"dataclass": make_dataclass, "struct": msgspec.defstruct}[sys.argv[1]]

def new_type():
    inner = make("Inner", [(f"a{i}", int) for i in range(20)])
    middle = make("Middle", [(f"b{i}", tuple[inner, ...]) for i in range(5)])
    return make("Outer", [("c", middle), ("d", inner), ("e", tuple[middle, ...])])

inner = {f"a{i}": i for i in range(20)}
middle = {f"b{i}": [inner] for i in range(5)}
value = {"c": middle, "d": inner, "e": [middle]}
body = messages.write(value)
sys.setswitchinterval(1e-6)
for _ in range(30):
    kind, together = new_type(), threading.Barrier(8)

    def read():
        together.wait()
        if sys.argv[1] == "struct":
            messages.read(kind, body)
        else:
            strict_json.from_plain(kind, value)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("made_of", ["dataclass", "struct"])
def test_a_type_may_be_met_by_several_threads_at_the_same_time(made_of):
    command = [sys.executable, "-c", RACE, made_of]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
