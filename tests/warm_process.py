"""Python processes that begin with torch imported: forked from one that has done no more."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SERVE = """
import json as _json, os as _os, sys as _sys, traceback as _traceback

def _run(order):
    _os.environ.clear()
    _os.environ.update(order["env"])
    for number, path in enumerate((_os.devnull, order["out"], order["err"])):
        _os.dup2(_os.open(path, _os.O_RDWR | _os.O_CREAT), number)
    _sys.argv = ["-c", *order["args"]]
    try:
        exec(compile(order["code"], "<string>", "exec"), {"__name__": "__main__"})
        return 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=_sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        _traceback.print_exc()
        return 1
    finally:
        _sys.stdout.flush()
        _sys.stderr.flush()

_answers = _os.fdopen(_os.dup(1), "w")
for _line in iter(_sys.stdin.readline, ""):
    if (_pid := _os.fork()) == 0:
        _os._exit(_run(_json.loads(_line)))
    _answers.write(f"{_os.waitstatus_to_exitcode(_os.waitpid(_pid, 0)[1])}\\n")
    _answers.flush()
"""


class WarmProcess:
    """A process that has run the code of ``warm_process`` and forks itself when asked."""

    def __init__(self, server: subprocess.Popen, folder: Path) -> None:
        self._server, self._folder = server, folder

    def run(
        self, code: str, *args: str, env: Mapping[str, str] = os.environ
    ) -> subprocess.CompletedProcess:
        """Runs code in a process of its own, to its end, as ``python -c CODE ARGS`` does."""
        said = [self._folder / name for name in ("out", "err")]
        for file in said:
            file.unlink(missing_ok=True)
        order = {"code": code, "args": args, "env": dict(env)}
        order |= {"out": str(said[0]), "err": str(said[1])}
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(args, status, *(file.read_text() for file in said))


@contextmanager
def warm_process(code: str, folder: Path, cwd: Path) -> Iterator[WarmProcess]:
    """Starts a process in ``cwd`` that has run the code, e.g. imports.

    Args:
        code: Runs once. It must start no thread and read no variable that a later run sets.
        folder: For what the processes print.
        cwd: Their working directory.
    """
    with subprocess.Popen(
        [sys.executable, "-c", code + SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
    ) as server:
        yield WarmProcess(server, folder)
        server.stdin.close()
