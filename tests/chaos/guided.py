"""Lets a fuzzer that watches the coverage of our code (atheris) choose the inputs of the parsers.

``python -m tests.chaos.guided --seconds 60 tfrecord tar`` prints what it found, and where the data
of a finding lie; ``--replay FILE tfrecord`` shows its traceback. Without names it takes all. It
needs ``pip install atheris``. Inputs are made as by ``tests.chaos.fuzz``, but the fuzzer chooses
the random numbers, and changes those that led to new lines of code.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.chaos.fuzz import INPUT_S, ROOT, TooSlowError, fault_of, limit_memory, limited_time

FINDINGS = ROOT / "build/fuzz"

_BYTES = 4096
"""Bytes with random numbers that the fuzzer chooses for one input."""
_SPARE_S = 120


class ChosenRandom(Random):
    """Draws from given bytes, and after their end as a ``Random`` of which they are the seed."""

    def __new__(cls, data: bytes) -> "ChosenRandom":
        return super().__new__(cls, data)

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._data, self._at = data, 0

    def getrandbits(self, k: int, /) -> int:
        """See ``Random``."""
        end = self._at + (k + 7) // 8
        if end > len(self._data):
            return super().getrandbits(k)
        taken, self._at = self._data[self._at : end], end
        return int.from_bytes(taken, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """See ``Random``."""
        return self.getrandbits(16) / (1 << 16)


def _child(name: str, seconds: int, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["lafp", "data_pipelines"]):
        from tests.chaos.targets import TARGETS

        target = TARGETS[name](folder)
    limit_memory()
    seen: set[str] = set()

    def parse(data: bytes) -> None:
        made = target.make(ChosenRandom(data))
        try:
            with limited_time(INPUT_S):
                target.parse(made)
        except target.refuses_with:
            pass
        except (Exception, TooSlowError) as error:
            if (fault := fault_of(error)) not in seen:
                seen.add(fault)
                path = FINDINGS / f"{name.replace(' ', '_')}-{hashlib.sha256(data).hexdigest()[:8]}"
                path.write_bytes(data)
                with (folder / "faults").open("a") as faults:
                    faults.write(json.dumps(f"{fault} ({path})") + "\n")

    limits = [f"-max_total_time={seconds}", f"-max_len={_BYTES}", "-rss_limit_mb=4096"]
    limits += ["-len_control=0", "-timeout=60", f"-artifact_prefix={FINDINGS}/"]
    atheris.Setup([name, *limits], parse)
    atheris.Fuzz()


def run(name: str, seconds: int) -> list[str]:
    """Fuzzes one parser in a process of its own. Returns the faults, and prints a line."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lafp-fuzz-") as folder:
        (Path(folder) / "faults").touch()
        command = [sys.executable, "-m", "tests.chaos.guided", "--child", name]
        with subprocess.Popen(
            [*command, str(seconds), folder], cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                _, said = process.communicate(timeout=seconds + _SPARE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                said = f"it hangs: {process.communicate()[1]}"
        faults = [json.loads(line) for line in (Path(folder) / "faults").read_text().splitlines()]
    runs = re.search(r"Done (\d+) runs", said)
    covered = re.findall(r"cov: (\d+)", said) or ["0"]
    if runs is None:
        faults.append(f"the process dies: {said[-2000:]}")
    num_inputs = runs[1] if runs else "?"
    print(f"{name}: {num_inputs} inputs, coverage {covered[0]} -> {covered[-1]}", flush=True)
    for fault in faults:
        print(f"  {fault}", flush=True)
    return faults


def replay(name: str, path: Path) -> None:
    """Parses the input of a finding again, and raises its error."""
    from tests.chaos.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="lafp-fuzz-") as folder:
        target = TARGETS[name](Path(folder))
        target.parse(target.make(ChosenRandom(path.read_bytes())))


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        return 0
    from tests.chaos.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--replay", type=Path, metavar="FILE")
    args = parser.parse_args()
    if unknown := {*args.targets} - TARGETS.keys():
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if args.replay:
        if len(args.targets) != 1:
            parser.error("--replay wants the one target that the file is of")
        replay(args.targets[0], args.replay)
        return 0
    return int(sum(len(run(name, args.seconds)) for name in args.targets or TARGETS) > 0)


if __name__ == "__main__":
    sys.exit(main())
