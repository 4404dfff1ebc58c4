"""Runs a fuzzer in C that is compiled anew with the sanitizers of the compiler."""

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lafp.video.damage import compiled

_FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def assert_touches_no_memory_of_others(
    name: str, frames: Sequence[bytes], num_rounds: int, folder: Path
) -> None:
    """Damages each of the frames so many times, and parses it with ``fuzz_<name>.c``."""
    program, path = folder / "fuzz", folder / "frames"
    source = Path(__file__).with_name(f"fuzz_{name}.c")
    include = f"-I{Path(compiled.__file__).parent}"
    build = ["cc", *_FLAGS, include, str(source), "-o", str(program)]
    if subprocess.run(build, capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizers")
    path.write_bytes(b"".join(struct.pack("<I", len(data)) + data for data in frames))
    command = [str(program), str(path), str(num_rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    num_damaged, num_noticed = map(int, done.stdout.split())
    assert num_noticed > 0.5 * num_damaged  # some are not changed at all
