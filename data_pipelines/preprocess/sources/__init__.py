"""Reads formats of episodes with actions other than ``x.mp4`` with ``x.npz``, one file per format.

A source's content decides its format (``listing``). ``list_items`` runs on the driver, ``open`` on
workers.
"""

from collections.abc import Iterator
from typing import Protocol

from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from lafp.config.registry import Registry
from lafp.data.shards.format import Split


class LabeledSource(Protocol):
    """Lists and opens the inputs of one format."""

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem | LeftOut]:
        """Lists the inputs of a dataset or file in a stable order, with distinct URIs.

        Raises:
            ConfigError: The dataset as a whole cannot be used.
            Exception: Any other error becomes a reject row.
        """
        ...

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Opens the videos in one listed input. Each must be read before the next is requested.

        Raises:
            VideoError: The input, or the rest of it, cannot be used.
            Exception: Any other error becomes a reject row too (``faults``).
        """
        ...


LABELED_SOURCES: Registry[LabeledSource] = Registry(
    "format of episodes",
    {
        "lerobot": "data_pipelines.preprocess.sources.lerobot.dataset:LeRobot",
        "rlds": "data_pipelines.preprocess.sources.rlds:Rlds",
        "hdf5": "data_pipelines.preprocess.sources.hdf5.trajectories:Hdf5",
    },
)
"""Imported on first use: a process that decodes videos needs no pyarrow, which takes 0.1 s."""
