"""``pytest -p tests.fast`` runs tests that start neither Ray nor a process and take no seconds.

No list says which tests these are, because a list would soon be wrong. A test is skipped at the
moment when it, or one of its fixtures, starts a process. pytest's cache keeps which tests did so,
and which took too much CPU time, so that the next run does not begin them and takes half as long.
``make test`` runs all that are skipped here; ``pytest --cache-clear`` forgets them.
"""

import hashlib
import multiprocessing.process
import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

# Every stage asks git for the revision, which takes milliseconds.
ALLOWED = {"git"}
TOO_LONG = "it takes seconds: `make test` runs it"
STARTS_A_PROCESS = "it starts a process: `make test` runs it"
# CPU time, so that a busy machine skips no more.
TEST_CPU_S, FIXTURE_CPU_S = 0.4, 2.0
_popen = subprocess.Popen.__init__


def _skip(*_, **__) -> None:
    if threading.current_thread() is not threading.main_thread():
        # The test waits for this thread in the main one, which only a signal's handler interrupts.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGPROF)
    pytest.skip(STARTS_A_PROCESS)


def _skip_signalled(_, frame: FrameType | None) -> None:
    outer = frame
    while outer:
        if outer.f_code.co_filename == "<frozen importlib._bootstrap>":
            # A module that is imported in part would fail in other tests.
            signal.setitimer(signal.ITIMER_PROF, 0.05)
            return
        outer = outer.f_back
    pytest.skip(STARTS_A_PROCESS)


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


def pytest_configure() -> None:
    # A thread that outlives its test may start a process when no handler is set any more. The
    # signal's default would end this process.
    signal.signal(signal.SIGPROF, signal.SIG_IGN)


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if (note := _note(item)).exists():
            item.add_marker(pytest.mark.skip(reason=note.read_text()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _threads_heard():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item) -> Iterator[None]:
    start_s = time.process_time()
    try:
        with _threads_heard():
            return (yield)
    finally:
        if time.process_time() - start_s > TEST_CPU_S:
            _note(item).write_text(TOO_LONG)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request) -> Iterator[object]:
    """Notes all tests of a fixture that takes too long."""
    start_s = time.process_time()
    try:
        return (yield)
    finally:
        if time.process_time() - start_s > FIXTURE_CPU_S:
            for item in request.session.items:
                info = getattr(item, "_fixtureinfo", None)  # pytest has no public way
                if info and fixturedef in info.name2fixturedefs.get(fixturedef.argname, ()):
                    _note(item).write_text(TOO_LONG)


@contextmanager
def _threads_heard() -> Iterator[None]:
    """Ends a test whose threads start processes."""
    before = signal.signal(signal.SIGPROF, _skip_signalled)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call) -> Iterator[None]:
    """Notes also a test whose fixture started a process for another test."""
    if call.excinfo and getattr(call.excinfo.value, "msg", None) == STARTS_A_PROCESS:
        _note(item).write_text(STARTS_A_PROCESS)
    report = yield
    if call.excinfo and isinstance(call.excinfo.value, pytest.skip.Exception):
        # What the interrupted frames hold goes now. The garbage collector would delete it amid a
        # later test, and an environment whose deletion takes a lock might wait for that test.
        traceback.clear_frames(call.excinfo.tb)
    return report


def _note(item) -> Path:
    name = hashlib.sha256(item.nodeid.encode()).hexdigest()
    return item.config.cache.mkdir("not-for-test-fast") / name
