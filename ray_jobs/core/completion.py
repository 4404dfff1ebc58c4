"""Completes commands, options, paths and config keys when TAB is pressed.

eval "$(lafp completion bash)"       # in ~/.bashrc
eval "$(lafp completion zsh)"        # in ~/.zshrc, after compinit
lafp completion fish | source        # in ~/.config/fish/config.fish

The shell asks the command itself, so keys are those of the config that stands on the line.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import argcomplete
from argcomplete.lexers import split_line

from lafp.config import ConfigError, read_config
from lafp.config.source import Key, Section, read_section

SHELLS = ("bash", "zsh", "fish")
_ASKED = "_ARGCOMPLETE"
"""Set by the shell: one more than the number of words before the program's own name."""


def code_for(shell: Literal["bash", "zsh", "fish"]) -> str:
    """Returns the code that makes a shell ask ``lafp`` for completions."""
    return argcomplete.shellcode(["lafp"], shell=shell)


def is_asked() -> bool:
    """Tells whether a shell has started this process to complete a line."""
    return _ASKED in os.environ


def command_of_line(commands: Sequence[str]) -> str:
    """Returns the command that stands on the line; its own parser then answers the shell.

    Where the command itself is to be completed, it answers and ends the process.

    Args:
        commands: Modules of ``ray_jobs`` and other commands.
    """
    line = os.environ["COMP_LINE"]
    words = split_line(line, int(os.environ.get("COMP_POINT", len(line))))[3]
    if len(words) > 1 and words[1].replace("-", "_") in commands:
        os.environ[_ASKED] = "2"  # what the parser sees begins at the second word
        return words[1]
    parser = CompletingParser()
    parser.add_argument("command", choices=[name.replace("_", "-") for name in commands])
    argcomplete.autocomplete(parser)
    raise AssertionError("argcomplete ends the process")


class CompletingParser(argparse.ArgumentParser):
    """Answers the shell instead of parsing, if the shell has asked."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See ``argparse``. Intermixed lines are put in order for argcomplete, which calls this."""
        if is_asked() and args:
            args = self._options_first(list(args))
        return super().parse_known_args(args, namespace)

    def _options_first(self, words: list[str]) -> list[str]:
        """Moves options before the other words, because plain parsing lets no words follow them.

        An option at the end may be waiting for the value that is completed, so it stays there.
        """
        options, others = [], []
        while words:
            word = words.pop(0)
            action = self._option_string_actions.get(word)
            if action is None:
                others.append(word)
            elif words or action.nargs == 0:
                options += [word] if action.nargs == 0 else [word, words.pop(0)]
            else:
                return [*options, *others, word]
        return [*options, *others]

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """See ``argparse``."""
        argcomplete.autocomplete(self)
        return super().parse_args(*args, **kwargs)

    def parse_intermixed_args(self, *args: Any, **kwargs: Any) -> Any:
        """See ``argparse``."""
        argcomplete.autocomplete(self)
        return super().parse_intermixed_args(*args, **kwargs)


class KeyCompleter:
    """Lists the keys of a job's config as ``section.key=``.

    Args:
        schema: The class of the config, as ``"package.module:Class"``.
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema

    def __call__(self, parsed_args: argparse.Namespace, **_: object) -> list[str]:
        """Returns the keys that the config on the line may have."""
        section = read_section(self.schema)
        try:
            raw = read_config(section, parsed_args.config, [])
        except (
            AttributeError,
            ConfigError,
            OSError,
        ):  # a command without a config, or no such file
            raw = {}
        return list(_keys(section, raw, ""))


def _keys(section: Section, raw: object, where: str) -> Iterator[str]:
    """Yields the keys of a section, deep, with those of the choices that ``raw`` makes."""
    given = raw if isinstance(raw, Mapping) else {}
    for key in section.keys.values():
        at, value = f"{where}{key.name}", given.get(key.name)
        if not (key.section or key.choices):
            yield f"{at}="
        elif key.is_list:
            items = value if isinstance(value, list) else []
            for index, item in enumerate(items):
                yield from _inner(key, item, f"{at}.{index}.")
        else:
            yield from _inner(key, value, f"{at}.")


def _inner(key: Key, raw: object, where: str) -> Iterator[str]:
    if key.section:
        yield from _keys(key.section, raw, where)
    if key.choices:
        names = key.choices.names()
        chosen = raw.get("name") if isinstance(raw, Mapping) else None
        yield from (f"{where}name={name}" for name in names)
        if chosen in names:
            found = _keys(key.choices.section(chosen), raw, where)
            yield from (each for each in found if each != f"{where}name=")
