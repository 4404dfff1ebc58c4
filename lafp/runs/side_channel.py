"""Runs side work, such as metrics and gauges, whose failure must never end the main work."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say_on_stderr(line: str) -> None:
    """Writes a line. A closed terminal is no error."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # a closed pipe, a closed file
        return


class SideChannel:
    """Suppresses the failures of one side channel, and reports the first one.

    Args:
        name: Name of the side channel for the report, e.g. ``wandb``.
        say: Receives the line about the first failure.
    """

    def __init__(self, name: str, say: Callable[[str], None] = say_on_stderr) -> None:
        self._name, self._say = name, say
        self._is_said = False

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Suppresses any error of the block, which then ends early.

        The next block runs again, because the cause of the failure may be gone.
        """
        try:
            yield
        except Exception as error:
            if self._is_said:
                return
            self._is_said = True
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            self._say(
                f"{self._name}: {type(error).__name__}: {reason}. The work goes on without it. "
                "Later failures of it are not reported."
            )
