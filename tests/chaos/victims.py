"""A job's processes: started as a user does, found, killed, and looked for when it has ended."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.surroundings import set_clock

ROOT = Path(__file__).parents[2]
INSIDE = Path(__file__).parent / "inside"
NOTICE_S = 10.0
"""Seconds from SIGTERM to SIGKILL, for a spot machine that goes."""
LEAVE_S = 90.0
"""Seconds that a job's other processes may take to end after its driver."""
_GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


@dataclass
class Started:
    """One start of the command."""

    driver: "subprocess.Popen[bytes]"
    log: Path
    mark: str
    """Value of an environment variable that all processes of this start have inherited."""
    count: Path
    """File that counts the changes of the run's files."""
    started_s: float = field(default_factory=time.monotonic)

    @property
    def fired(self) -> Path:
        """File that is there once a change has killed its process."""
        return self.count.with_name(self.count.name + ".fired")

    @property
    def clock(self) -> Path:
        """File that says by how much the clock of all its processes is ahead."""
        return self.count.with_suffix(".clock")


def start(command: list[str], folder: Path, run: Path, change: int, ray_address: str) -> Started:
    """Starts a command in a process group of its own.

    Args:
        command: What follows ``python -m``.
        folder: Gets the log, the job's temporary files and Ray's.
        run: The run's folder. Renames and deletions in it are counted.
        change: Number of the change before which its process kills itself, or -number for the
            moment after it; 0 for none.
        ray_address: ``local`` for a Ray of its own, empty for a job that does without.
    """
    mark = uuid.uuid4().hex[:8]
    tmp, ray = folder / "tmp", folder / "ray"
    for path in (tmp, ray):
        path.mkdir(parents=True, exist_ok=True)
    log, count = folder / f"{mark}.log", folder / f"{mark}.changes"
    env = os.environ | {
        "RAY_ADDRESS": ray_address,
        "TMPDIR": str(tmp),
        "RAY_TMPDIR": str(ray),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),  # kept from run to run on purpose
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(INSIDE),
        "CHAOS_MARK": mark,
        "CHAOS_FOLDER": str(run),
        "CHAOS_COUNT": str(count),
        "CHAOS_AT": str(change),
        "CHAOS_CLOCK": str(count.with_suffix(".clock")),
    }
    set_clock(count.with_suffix(".clock"), 0.0)
    with log.open("wb") as file:
        driver = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT, stdout=file, stderr=file, env=env, start_new_session=True,
        )  # fmt: skip
    return Started(driver, log, mark, count)


def marked(started: Started) -> list[psutil.Process]:
    """All processes of a start that live, also those whose parents are gone."""
    found = []
    for process in psutil.process_iter():
        with suppress(*_GONE):
            if process.environ().get("CHAOS_MARK") == started.mark:
                found.append(process)
    return found


def name_of(process: psutil.Process) -> str:
    """What a process does, in a word or two."""
    with suppress(*_GONE):
        words = process.cmdline()
        text = " ".join(words)
        if text.startswith("ray::"):
            return words[0].partition("(")[0]
        for part, name in (
            ("sandbox.process", "sandbox"),
            ("raylet/raylet", "raylet"),
            ("gcs_server", "gcs"),
        ):
            if part in text:
                return name
        return Path(words[2] if words[1:2] == ["-m"] else words[-1] if words else "?").name
    return "?"


def find(kind: str, started: Started) -> list[psutil.Process]:
    """The processes of a kind below the driver. A ``node`` is all of them."""
    try:
        driver = psutil.Process(started.driver.pid)
        if kind == "driver":
            return [driver]
        members = [driver, *driver.children(recursive=True)]
    except _GONE:
        return []
    if kind == "node":
        return members if any(name_of(p) == "raylet" for p in members) else []
    if kind == "worker":
        return [p for p in members if _works(name_of(p))]
    return [p for p in members if name_of(p) == kind]


def _works(name: str) -> bool:
    """Tells whether a process of this name runs a task or an actor, not one of Ray's agents."""
    return name.startswith("ray::") and name != "ray::IDLE" and not name.endswith("Agent")


def strike(
    victims: list[psutil.Process], how: str, rng: random.Random, driver: "subprocess.Popen[bytes]"
) -> None:
    """Kills processes: at once, with notice, or not at all but for a pause of some seconds."""
    if how == "KILL":
        _signal(victims, signal.SIGKILL)
    elif how == "TERM":
        _signal(victims, signal.SIGTERM)
        deadline = time.monotonic() + NOTICE_S
        while time.monotonic() < deadline and any(map(_lives, victims)):
            driver.poll()  # otherwise a driver that has ended stays there as a zombie
            time.sleep(0.05)
        _signal(victims, signal.SIGKILL)
    else:
        _signal(victims, signal.SIGSTOP)
        time.sleep(rng.uniform(1, 8))
        _signal(victims, signal.SIGCONT)


def _lives(process: psutil.Process) -> bool:
    with suppress(*_GONE):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(*_GONE):
            process.send_signal(number)


def left_behind(started: Started) -> list[str]:
    """Waits for the processes of a start whose driver has ended. Kills and names those that stay.

    Without its driver nothing may be left: the next start would share the machine with it.
    """
    deadline = time.monotonic() + LEAVE_S
    while (left := marked(started)) and time.monotonic() < deadline:
        time.sleep(0.5)
    names = sorted({name_of(process) for process in left})
    _signal(left, signal.SIGKILL)
    return names


def end(started: Started) -> None:
    """Kills what is left of a start."""
    _signal(marked(started), signal.SIGKILL)
    started.driver.wait()
