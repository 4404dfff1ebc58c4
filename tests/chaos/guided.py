"""Lets a fuzzer that watches the coverage of our code (atheris) choose the inputs of the parsers.

``python -m tests.chaos.guided --seconds 60 tfrecord tar`` prints what it found. Without names it
takes all parsers. Needs ``pip install atheris``. Inputs are made as by ``tests.chaos.fuzz``, but
the fuzzer chooses the random numbers, and changes those that led to new lines of code.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

from tests.chaos.fuzz import INPUT_S, ROOT, TooSlowError, fault_of, limited_time

_BYTES = 4096
"""Bytes with random numbers that the fuzzer chooses for one input."""
_SPARE_S = 120


class ChosenRandom(Random):
    """Draws from given bytes, and where they end, what follows from them."""

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
    seen: set[str] = set()
    with (folder / "faults").open("w", buffering=1) as faults:

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
                    faults.write(json.dumps({"fault": fault, "data": data.hex()}) + "\n")

        limits = [f"-max_total_time={seconds}", f"-max_len={_BYTES}", "-rss_limit_mb=4096"]
        atheris.Setup([name, *limits, "-len_control=0", "-timeout=60"], parse)
        atheris.Fuzz()


def run(name: str, seconds: int) -> list[str]:
    """Fuzzes one parser in a process of its own. Returns the faults, and prints a line."""
    with tempfile.TemporaryDirectory(prefix="lafp-fuzz-") as folder:
        command = [sys.executable, "-m", "tests.chaos.guided", "--child", name]
        command += [str(seconds), folder]
        done = subprocess.run(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=seconds + _SPARE_S
        )
        found = [json.loads(line) for line in (Path(folder) / "faults").read_text().splitlines()]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr) or ["0"]
    if runs is None:
        found.append({"fault": f"the process dies: {done.stderr[-2000:]}", "data": ""})
    num_inputs = runs[1] if runs else "?"
    print(f"{name}: {num_inputs} inputs, coverage {covered[0]} -> {covered[-1]}", flush=True)
    for fault in found:
        print(f"  {fault['fault']} (data: {fault['data'][:200]})", flush=True)
    return [fault["fault"] for fault in found]


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
        return 0
    from tests.chaos.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    return int(sum(len(run(name, args.seconds)) for name in args.targets or TARGETS) > 0)


if __name__ == "__main__":
    sys.exit(main())
