"""``pytest -p tests.fast`` runs the tests that start neither Ray nor a process: ``make test-fast``.

No list says which tests these are, because a list would soon be wrong. A test is skipped at the
moment when it, or one of its fixtures, starts a process. ``make test`` runs those that are skipped.
"""

import multiprocessing.process
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Every stage asks git for the revision, which takes milliseconds.
ALLOWED = {"git"}
_popen = subprocess.Popen.__init__


def _skip(*_, **__) -> None:
    pytest.skip("it starts a process: `make test` runs it")


def _popen_or_skip(self, args, *more, **options) -> None:
    program = args if isinstance(args, str | bytes | os.PathLike) else args[0]
    if Path(os.fsdecode(program)).name not in ALLOWED:
        _skip()
    _popen(self, args, *more, **options)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Holds during a test and its fixtures: pytest-xdist may start its own processes."""
    with pytest.MonkeyPatch.context() as patch:
        # `subprocess.run` and `ray.init` end in the first, `mp.spawn` and pools in the second.
        patch.setattr(subprocess.Popen, "__init__", _popen_or_skip)
        patch.setattr(multiprocessing.process.BaseProcess, "start", _skip)
        return (yield)
