"""Kills jobs at random and at chosen moments, runs them again, and compares the results.

python -m tests.chaos.kills [--job preprocess] [--kills 100] [--seed 1]

Prints a JSON line per job (to stderr: one per kill and fault). A run is killed up to eight times
and started again until it ends. Some kills spare all processes: the disk is full for a while, or
the clock jumps. Then it must have come to every byte of an undisturbed run, have
left no file, process or temporary file behind, and have lost no step that a checkpoint holds. A
start that ends must end without a traceback. ``lost_s_per_kill`` is what a run took longer than the
undisturbed one, divided by its kills.
"""

import argparse
import json
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lafp.storage.json_lines import read_lines
from tests.chaos.jobs import JOBS, Job, result
from tests.chaos.surroundings import JUMPS_S, fill, own_disk, set_clock
from tests.chaos.victims import Started, end, find, left_behind, name_of, start, strike

HANGS_S = 900.0
"""A start that takes longer than this hangs, on the busiest machine."""
HOWS = ("KILL", "KILL", "TERM", "STOP")
MOST_PER_RUN = 8
"""Kills of one run: then it is let through, and compared."""
MOST_BUSY_STARTS = 10
"""Starts in a row that may end because the machine is too busy for Ray."""
SURROUNDINGS = ("disk", "clock")
"""They befall every job, each as often as a kind of victims that a job names once."""
AT_CHANGES = 1 / 2
"""Share of the starts that die at a chosen moment: before or after a rename or a deletion."""


@dataclass
class Campaign:
    """The kills of one job."""

    name: str
    job: Job
    folder: Path
    seed: int
    kills: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    lost_s: list[float] = field(default_factory=list)
    """Per run: what it took longer than the undisturbed one, divided by its kills."""
    undisturbed_s: float = 0.0
    num_compared: int = 0
    """Kills of runs that have ended and were compared; the others were interrupted."""
    num_busy_starts: int = 0
    """Starts at which Ray did not come up: the job says so, and is started again."""
    num_changes: int = 0
    """Renames and deletions of the undisturbed run."""
    expected: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.name} {self.seed}")

    def prepare(self) -> None:
        """Writes what the job reads, and runs it once undisturbed."""
        self.job.prepare(self.folder / "base")
        # All runs have one path, which clips of demonstrations and their ids hold.
        trial = Trial(self, self.folder / "run", most_kills=0)
        self.undisturbed_s = trial.run()
        shutil.rmtree(trial.folder)
        self.num_changes, self.expected = trial.num_changes, trial.found
        if self.faults or not self.expected:
            raise RuntimeError(f"The undisturbed run fails: {self.faults}")

    def kill(self, num_kills: int) -> None:
        """Kills runs, one after the other, until there were so many kills."""
        while len(self.kills) < num_kills:
            before = len(self.kills)
            trial = Trial(self, self.folder / "run", min(MOST_PER_RUN, num_kills - before))
            took_s = trial.run()
            self.num_compared = len(self.kills)
            if len(self.kills) > before:
                self.lost_s.append((took_s - self.undisturbed_s) / (len(self.kills) - before))
            shutil.rmtree(trial.folder)

    def line(self) -> dict[str, Any]:
        """Returns what is printed of the job."""
        kinds = Counter(f"{kill['kind']} {kill['how']}" for kill in self.kills)
        return {
            "job": self.name,
            "seed": self.seed,
            "kills": len(self.kills),
            "compared": self.num_compared,
            "kinds": dict(sorted(kinds.items())),
            "at_changes": sum(kill["when"] != "random" for kill in self.kills),
            "runs": len(self.lost_s),
            "busy_starts": self.num_busy_starts,
            "undisturbed_s": round(self.undisturbed_s, 1),
            "lost_s_per_kill": round(statistics.mean(self.lost_s or [0]), 1),
            "faults": dict(Counter(fault["fault"] for fault in self.faults)),
        }


class Trial:
    """One run that is killed and started again until it ends."""

    def __init__(self, campaign: Campaign, folder: Path, most_kills: int) -> None:
        self.folder, self.run_folder = folder, folder / "runs/run"
        self.num_changes = 0
        self.found: dict[str, str] = {}
        """What it came to."""
        self._of, self._most, self._rng = campaign, most_kills, campaign.rng
        self._kills: list[dict[str, Any]] = []

    def run(self) -> float:
        """Starts the command until it ends well, and compares what it made. Returns seconds."""
        self.run_folder.parent.mkdir(parents=True)
        with own_disk(self.run_folder.parent) as has_own_disk:
            return self._run_on(has_own_disk)

    def _run_on(self, has_own_disk: bool) -> float:
        self._surroundings = SURROUNDINGS if has_own_disk else ("clock",)
        job, base = self._of.job, self._of.folder / "base"
        begin_s = time.monotonic()
        job.begin(base, self.run_folder)
        num_busy = 0
        while num_busy < MOST_BUSY_STARTS:
            change = self._choose_change() if self._may_kill() else 0
            num_kills = len(self._kills)
            command = job.command(base, self.run_folder)
            started = start(command, self.folder, self.run_folder, change, job.ray_address)
            try:
                self._watch(started, change)
                self._check_end(started)
            finally:
                end(started)
            if started.driver.returncode == 0:
                break
            if "too busy" in _tail(started.log):  # says so after half a minute, five times
                num_busy += 1
                self._of.num_busy_starts += 1
            elif len(self._kills) == num_kills:
                self._fault(f"ends by itself: {_tail(started.log)}")
                break
            else:
                num_busy = 0
        else:
            raise RuntimeError("The machine is too busy for Ray.")
        took_s = time.monotonic() - begin_s
        with suppress(OSError):  # a job may change nothing
            self.num_changes = int(started.count.read_text())
        self._compare()
        return took_s

    def _may_kill(self) -> bool:
        return len(self._kills) < self._most

    def _choose_change(self) -> int:
        """The change at which a start dies: see ``start``. 0 if it is killed at a random moment."""
        if not self._of.num_changes or self._rng.random() > AT_CHANGES:
            return 0
        # Early ones more often: a start that resumes has fewer to make.
        number = 1 + int(self._of.num_changes * self._rng.random() ** 2)
        return self._rng.choice((1, -1)) * number

    def _watch(self, started: Started, change: int) -> None:
        """Lets a start run to its end, and kills."""
        kind, how, at_s = self._choose(0.0)
        is_told = change == 0
        while started.driver.poll() is None:
            now_s = time.monotonic() - started.started_s
            if now_s > HANGS_S:
                self._fault(f"hangs: {_tail(started.log)}")
                return
            if not is_told and started.fired.exists():
                is_told = True
                self._note_change(started)
            is_due = change == 0 and self._may_kill() and now_s > at_s
            if is_due and kind in SURROUNDINGS:
                self._note(started, kind, kind, how, "random")
                self._befall(kind, how, started)
                kind, how, at_s = self._choose(time.monotonic() - started.started_s)
            elif is_due and (victims := find(kind, started)):
                chosen = victims if kind == "node" else [self._rng.choice(victims)]
                self._note(started, kind, name_of(chosen[0]), how, "random")
                strike(chosen, how, self._rng, started.driver)
                kind, how, at_s = self._choose(time.monotonic() - started.started_s)
            time.sleep(0.05)
        if not is_told and started.fired.exists():
            self._note_change(started)

    def _choose(self, now_s: float) -> tuple[str, str, float]:
        """Whom to kill next, how, and when: seconds after the start."""
        kinds = (*self._of.job.victims, *self._surroundings)
        kind, how = self._rng.choice(kinds), self._rng.choice(HOWS)
        if kind == "raylet":
            how = "KILL"  # SIGTERM drains it, which takes Ray longer than the notice
        elif kind == "disk":
            how = "full"
        elif kind == "clock":
            how = f"{self._rng.choice(JUMPS_S):+.0f} s"
        wait_s = self._rng.uniform(0, 0.8 * self._of.undisturbed_s)
        return kind, how, now_s + (wait_s / 3 if now_s else wait_s)

    def _befall(self, kind: str, how: str, started: Started) -> None:
        if kind == "disk":
            fill(self.run_folder.parent, self._rng)
        else:
            set_clock(started.clock, float(how.removesuffix(" s")))

    def _note_change(self, started: Started) -> None:
        fired = json.loads(started.fired.read_text())
        kind = "driver" if fired["pid"] == started.driver.pid else "worker"
        name = Path(fired["path"]).relative_to(self.run_folder)
        self._note(started, kind, kind, "KILL", f"{fired['what']} of {name}")

    def _note(self, started: Started, kind: str, what: str, how: str, when: str) -> None:
        job, now_s = self._of.job, time.monotonic() - started.started_s
        kill = {"job": self._of.name, "number": len(self._of.kills), "kind": kind, "what": what}
        kill |= {"how": how, "when": when, "after_s": round(now_s, 1)}
        kill |= {"progress": job.progress(self.run_folder), "saved": job.saved(self.run_folder)}
        kill |= {"starts": len(self._starts())}
        self._kills.append(kill)
        self._of.kills.append(kill)
        print(json.dumps(kill), file=sys.stderr, flush=True)

    def _check_end(self, started: Started) -> None:
        """Checks what a start leaves behind, and how its end is said."""
        for name in left_behind(started):
            self._fault(f"a process is left behind: {name}")
        if started.driver.returncode > 0 and "Traceback" in started.log.read_text():
            self._fault(f"a traceback: {_tail(started.log)}")

    def _compare(self) -> None:
        self.found = found = result(self.run_folder)
        expected = self._of.expected
        for name in sorted({*found, *expected}) if expected else ():
            if found.get(name) != expected.get(name):
                what = "left behind" if name not in expected else "missing or different"
                self._fault(f"{name}: {what}")
        for path in (self.folder / "tmp").iterdir():
            self._fault(f"temporary file {path.name.rpartition('-')[0] or path.name}: left behind")
        steps = self._starts()
        for kill in self._kills:
            later = steps[kill["starts"] :]
            if later and later[0] < kill["saved"]:
                self._fault(f"resumes at step {later[0]}, not at its checkpoint {kill['saved']}")

    def _starts(self) -> list[int]:
        """The steps from which trainings of the run went on so far."""
        starts = self.run_folder / "lam/starts.jsonl"
        return [record["step"] for record in read_lines(str(starts))] if starts.exists() else []

    def _fault(self, text: str) -> None:
        last = self._kills[-1] if self._kills else None
        fault = {"job": self._of.name, "fault": text, "after": last and last["number"]}
        self._of.faults.append(fault)
        print(json.dumps(fault), file=sys.stderr, flush=True)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-300:]


def run(name: str, num_kills: int, seed: int, folder: Path) -> Campaign:
    """Kills one job so many times."""
    campaign = Campaign(name, JOBS[name], folder, seed)
    campaign.prepare()
    try:
        campaign.kill(num_kills)
    finally:  # also where it is interrupted
        print(json.dumps(campaign.line()), flush=True)
    return campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=JOBS, action="append")
    parser.add_argument("--kills", type=int, help="instead of the job's own number")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `timeout` ends it in order
    num_faults = 0
    for name in args.job or JOBS:
        # A short path: Ray's sockets lie in it, and their names are limited to 107 bytes.
        with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as folder:
            num_kills = JOBS[name].num_kills if args.kills is None else args.kills
            num_faults += len(run(name, num_kills, args.seed, Path(folder)).faults)
    return int(num_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
