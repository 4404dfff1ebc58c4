"""Records the origin of a result: versions, git revision, hardware."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "lafp", "ray", "torch", "deepspeed", "av", "decord", "torchcodec", "numpy", "pyarrow",
    "omegaconf",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Returns versions, git revision and hardware of this process, ready for JSON."""
    return {
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "cpu_model": _cpu_model(),
        "gpus": _gpus(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def git_revision() -> str | None:
    """Returns the checkout's commit, with ``+dirty`` if files differ from it; None outside of git.

    Changed files in docs/ do not count, because a study's ``--page`` writes there and no result
    depends on them. A Ray job that is submitted with a working directory runs without ``.git``:
    set ``LAFP_GIT_REVISION`` for it.
    """
    if revision := os.environ.get("LAFP_GIT_REVISION"):
        return revision
    folder = Path(__file__).parent
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "-uno", "--", ":/", ":(top,exclude)docs")
        return head + ("+dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_model() -> str | None:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((_value(line) for line in lines if line.startswith("model name")), None)


def _gpus() -> list[str]:
    """Lists the models of this machine's NVIDIA GPUs from their driver, used or not."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = (line for file in files for line in file.read_text().splitlines())
    return [_value(line) for line in lines if line.startswith("Model")]


def _value(line: str) -> str:
    return line.partition(":")[2].strip()


def _git(folder: Path, *args: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *args], capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
