"""Formats of episodes with actions beyond ``x.mp4`` and ``x.npz``: one file each.

A format is found by what the source holds; ``list_items`` runs on the driver, ``open`` on workers.
"""

from collections.abc import Iterator
from typing import Protocol

from data_pipelines.rows import VideoItem
from data_pipelines.sources.hdf5 import Hdf5
from data_pipelines.sources.lerobot_v2 import LeRobotV2
from data_pipelines.sources.lerobot_v3 import LeRobotV3
from data_pipelines.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.sources.rlds import Rlds
from lafp.data.shard_format import Split


class LabeledSource(Protocol):
    """What a format does."""

    def is_at(self, source: str) -> bool:
        """Whether the source, a URI, holds this format."""
        ...

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem]:
        """Lists the inputs, in a stable order; URIs differ.

        Raises:
            ConfigError: The source as a whole cannot be used.
        """
        ...

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Opens the videos in one listed input. Each is gone through before the next is asked for.

        Raises:
            VideoError: It cannot be used (further). It becomes a reject row.
            FileNotFoundError: The same.
            StorageError: S3 did not answer; the job can be resumed.
        """
        ...


LABELED_SOURCES: dict[str, LabeledSource] = {
    "lerobot_v2": LeRobotV2(),
    "lerobot_v3": LeRobotV3(),
    "rlds": Rlds(),
    "hdf5": Hdf5(),
}


def find_labeled_source(source: str) -> LabeledSource | None:
    """The format that the source holds; None if it is videos and ``.npz`` files."""
    return next((found for found in LABELED_SOURCES.values() if found.is_at(source)), None)
