"""Gives our parsers thousands of broken inputs, and finds what they do not refuse as they should.

``python -m tests.chaos.fuzz --inputs 10000 --seed 1 tfrecord tar`` prints what it found, also which
inputs killed the process, hung it or took too much memory. Without names it runs all targets. A
finding names the number of its input: ``--first NUMBER --inputs 1`` shows its traceback.
"""

import argparse
import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("lafp", "data_pipelines", "ray_jobs")
INPUT_S = 2.0
"""CPU time that one input may take."""
INPUT_BYTES = 1 << 30
"""Memory that the parser of one input may allocate, beside what the process has already."""
_HANGS_S = 120.0
_NUM_DEATHS = 25


@dataclass(frozen=True)
class Target:
    """One parser and what it may be given."""

    make: Callable[[Random], Any]
    """Makes one input."""
    parse: Callable[[Any], object]
    refuses_with: tuple[type[BaseException], ...]
    """Errors that the callers of the parser turn into a reject or one line."""


@dataclass
class Tally:
    """What became of the inputs of one target."""

    num_inputs: int = 0
    num_refused: int = 0
    slowest_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    """Fault -> number of its first input."""

    def add(self, fault: str, number: int) -> None:
        self.faults[fault] += 1
        self.first.setdefault(fault, number)


class TooSlowError(BaseException):
    """An input took too long. No parser may catch it."""


@contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raises ``TooSlowError`` after so much CPU time: other processes must not count."""

    def stop(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def try_inputs(
    name: str,
    target: Target,
    seed: int,
    numbers: range,
    begin: Callable[[int], object] = lambda _: None,
) -> Tally:
    """Parses inputs; each is made from the seed and its number alone."""
    tally = Tally()
    for number in numbers:
        begin(number)
        made = target.make(Random(f"{name} {seed} {number}"))
        started_s = time.process_time()
        try:
            with limited_time(INPUT_S):
                target.parse(made)
        except target.refuses_with:
            tally.num_refused += 1
        except (Exception, TooSlowError) as error:
            tally.add(fault_of(error), number)
            if len(numbers) == 1:
                traceback.print_exc()
        tally.num_inputs += 1
        tally.slowest_s = max(tally.slowest_s, time.process_time() - started_s)
    return tally


def fault_of(error: BaseException) -> str:
    """Words an error by its kind and the line of lafp that raised it, so that equal ones count."""
    at = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES:
            at = f" at {path.relative_to(ROOT)}:{frame.lineno}"
    text = str(error) if isinstance(error, AssertionError) else ""
    return f"{type(error).__name__}{at}{': ' if text else ''}{text[:300]}"


# ---------------------------------------------------------------------------------------------
# The long run: each target in a process of its own, which may die.


def run_apart(name: str, seed: int, numbers: range) -> Tally:
    """Parses inputs in another process. One that dies or hangs goes on after the input."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="lafp-fuzz-") as folder:
        at, done = Path(folder) / "at", Path(folder) / "done.json"
        first = numbers.start
        while first < numbers.stop and sum(tally.faults.values()) < 10**6:
            at.write_text(str(first))
            done.unlink(missing_ok=True)
            args = [name, str(seed), str(first), str(numbers.stop), folder]
            command = [sys.executable, "-m", "tests.chaos.fuzz", "--child", *args]
            with subprocess.Popen(command, cwd=ROOT) as process:
                status = _wait(process, at)
            stopped_at = int(at.read_text() or first)
            if done.is_file():
                _merge(tally, json.loads(done.read_text()))
            if status == 0:
                break
            tally.num_inputs += stopped_at + 1 - first
            word = "hangs" if status == -signal.SIGKILL else f"exit status {status}"
            tally.add(f"the process dies: {word}", stopped_at)
            if sum(n for f, n in tally.faults.items() if "dies" in f) >= _NUM_DEATHS:
                break
            first = stopped_at + 1
    return tally


def _wait(process: "subprocess.Popen[bytes]", at: Path) -> int:
    changed_s, last = time.monotonic(), ""
    while process.poll() is None:
        if (now := at.read_text()) != last:
            changed_s, last = time.monotonic(), now
        if time.monotonic() - changed_s > _HANGS_S:
            process.kill()
        time.sleep(0.2)
    return process.wait()


def _merge(tally: Tally, found: dict[str, Any]) -> None:
    tally.num_inputs += found["num_inputs"]
    tally.num_refused += found["num_refused"]
    tally.slowest_s = max(tally.slowest_s, found["slowest_s"])
    for fault, number in found["faults"].items():
        tally.faults[fault] += number
        tally.first.setdefault(fault, found["first"][fault])


def _child(name: str, seed: int, first: int, stop: int, folder: Path) -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    from tests.chaos.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="lafp-fuzz-") as scratch:
        target = TARGETS[name](Path(scratch))
        limit_memory()
        at = os.open(folder / "at", os.O_WRONLY | os.O_CREAT)

        def begin(number: int) -> None:
            os.pwrite(at, f"{number:020d}".encode(), 0)

        tally = try_inputs(name, target, seed, range(first, stop), begin)
    (folder / "done.json").write_text(json.dumps(vars(tally)))


def limit_memory() -> None:
    """Limits what this process may allocate beside what it has already."""
    import pyarrow

    pyarrow.array([0])  # its allocator reserves 1 GiB of addresses at the first allocation
    fields = Path("/proc/self/status").read_text()
    (line,) = (line for line in fields.splitlines() if line.startswith("VmData:"))
    now = int(line.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + INPUT_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        name, seed, first, stop, folder = sys.argv[2:]
        _child(name, int(seed), int(first), int(stop), Path(folder))
        return 0
    from tests.chaos.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    num_faults = 0
    for name in args.targets or TARGETS:
        begin_s = time.monotonic()
        tally = run_apart(name, args.seed, range(args.first, args.first + args.inputs))
        print(
            f"{name}: {tally.num_inputs} inputs, {tally.num_refused} refused, slowest "
            f"{tally.slowest_s:.2f} s, {time.monotonic() - begin_s:.0f} s",
            flush=True,
        )
        for fault, number in tally.faults.most_common():
            print(f"  {number} x {fault} (first: {tally.first[fault]})", flush=True)
        num_faults += sum(tally.faults.values())
    return int(num_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
