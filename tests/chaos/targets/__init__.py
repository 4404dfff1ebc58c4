"""The parsers that ``tests.chaos.fuzz`` tries, by name: folder for scratch files -> ``Target``."""

from collections.abc import Callable
from pathlib import Path

from tests.chaos.fuzz import Target
from tests.chaos.targets import configs, episodes, messages, parameter_sets, sources, stored

TARGETS: dict[str, Callable[[Path], Target]] = {
    **parameter_sets.TARGETS,
    **sources.TARGETS,
    **episodes.TARGETS,
    **stored.TARGETS,
    **configs.TARGETS,
    **messages.TARGETS,
}
