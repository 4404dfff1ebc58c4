"""Runs every job as one command: ``lafp train-lam ...`` is ``python -m ray_jobs.train_lam ...``.

lafp init DIR copies the configs that lafp ships with.
"""

import ast
import difflib
import pkgutil
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from shutil import copytree

import lafp
import ray_jobs
from lafp.config import ConfigError
from ray_jobs.core import completion
from ray_jobs.core.cli import described_parser, exit_codes


def main() -> None:
    """Runs the command that the first argument names, with the other arguments."""
    jobs = _jobs()
    if completion.is_asked():
        sys.argv[1:] = [completion.command_of_line([*jobs, *_OWN])]
    name = sys.argv[1].replace("-", "_") if len(sys.argv) > 1 else ""
    if name in jobs:
        sys.argv[1:2] = []
        runpy.run_module(f"ray_jobs.{name}", run_name="__main__", alter_sys=True)
        return
    with exit_codes():
        if name == "init":
            print(_init(sys.argv[2:]))
        elif name == "completion":
            print(_completion(sys.argv[2:]))
        else:
            _answer(name, jobs)


_OWN = {
    "init": "Copies the shipped configs into a folder.",
    "completion": "Prints what makes a shell complete commands, options and config keys.",
}
"""Commands that are no modules -> what they do."""


def _jobs() -> dict[str, str]:
    """Maps the modules of ``ray_jobs`` that are commands to the first line of their docstrings."""
    modules = [found for found in pkgutil.iter_modules(ray_jobs.__path__) if not found.ispkg]
    folder = Path(ray_jobs.__path__[0])
    return {
        found.name: _first_line(folder / f"{found.name}.py")
        for found in modules
        if found.name != "command"
    }


def _first_line(path: Path) -> str:
    # Parsed, because an import takes seconds.
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _init(arguments: list[str]) -> str:
    """Copies the shipped configs. Returns what it did.

    Raises:
        ConfigError: The folder holds configs already.
    """
    parser = described_parser("lafp init", "Copies the shipped configs.")
    parser.add_argument("folder", metavar="DIR", help="configs go to DIR/configs")
    target = Path(parser.parse_args(arguments).folder) / "configs"
    if target.exists():
        raise ConfigError(f"{target} exists. Name another folder, or move it away first.")
    try:
        copytree(shipped_configs(), target)
    except OSError as error:
        raise ConfigError(f"{target} could not be written: {error}") from None
    return f"configs: {target}"


def _completion(arguments: list[str]) -> str:
    """Returns the code that a shell runs at its start to complete ``lafp``."""
    parser = described_parser("lafp completion", completion.__doc__)
    parser.add_argument("shell", choices=completion.SHELLS)
    return completion.code_for(parser.parse_args(arguments).shell)


def shipped_configs() -> Path:
    """Returns the folder of the configs that lafp ships with."""
    package = Path(lafp.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _answer(name: str, jobs: dict[str, str]) -> None:
    """Answers ``lafp`` alone, ``--help`` and ``--version``.

    Raises:
        ConfigError: There is no such command.
    """
    if name == "__version":
        print(f"lafp {version('lafp')}")
        return
    if name not in ("", "_h", "__help"):
        commands = [job.replace("_", "-") for job in (*jobs, *_OWN)]
        close = difflib.get_close_matches(name.replace("_", "-"), commands, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"There is no command {sys.argv[1]!r}.{hint} `lafp --help` lists them.")
    print("usage: lafp COMMAND ...  (lafp COMMAND --help says more)\n\ncommands:")
    for job, line in {**jobs, **_OWN}.items():
        print(f"  {job.replace('_', '-'):15} {line}")
