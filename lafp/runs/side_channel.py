"""What goes along with the work and must never end it: metrics, gauges, progress."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say_on_stderr(line: str) -> None:
    """Writes a line; a terminal that is gone is no error."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # a closed pipe, a closed file
        return


class SideChannel:
    """Keeps the failures of one side channel from the work, and says the first one.

    Args:
        name: What is missing when it fails, e.g. ``wandb``.
        say: Gets the line about the first failure.
    """

    def __init__(self, name: str, say: Callable[[str], None] = say_on_stderr) -> None:
        self._name, self._say = name, say
        self._is_said = False

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Within the block any error ends the block and nothing else.

        The next block tries again: what was gone may be back.
        """
        try:
            yield
        except Exception as error:
            if self._is_said:
                return
            self._is_said = True
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            self._say(
                f"{self._name}: {type(error).__name__}: {reason}. The work goes on without it; "
                "later failures of it are not said."
            )
