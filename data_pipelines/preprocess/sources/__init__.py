"""Reads formats of episodes with actions other than ``x.mp4`` with ``x.npz``, one file per format.

A source's content decides its format (``listing``). ``list_items`` runs on the driver, ``open`` on
workers.
"""

from collections.abc import Iterator
from typing import Protocol

from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.hdf5.trajectories import Hdf5
from data_pipelines.preprocess.sources.lerobot.info import INFO
from data_pipelines.preprocess.sources.lerobot.other import LeRobotOther
from data_pipelines.preprocess.sources.lerobot.v2 import LeRobotV2
from data_pipelines.preprocess.sources.lerobot.v3 import LeRobotV3
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.preprocess.sources.rlds import Rlds
from lafp import storage
from lafp.config import ConfigError
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


class DatasetSource(LabeledSource, Protocol):
    """Lists and opens the inputs of a format whose datasets are folders."""

    def is_at(self, source: str) -> bool:
        """Says whether the folder is a dataset of this format."""
        ...


DATASET_SOURCES: dict[str, DatasetSource] = {
    "lerobot_v2": LeRobotV2(),
    "lerobot_v3": LeRobotV3(),
    "lerobot_other": LeRobotOther(),
}
LABELED_SOURCES: dict[str, LabeledSource] = {**DATASET_SOURCES, "rlds": Rlds(), "hdf5": Hdf5()}


# Datasets may lie below a source as source/dataset or source/user/dataset.
_MAX_DEPTH, _MAX_FOLDERS = 2, 1000


def find_datasets(source: str) -> list[tuple[DatasetSource, str]]:
    """Finds the datasets at a source, or one or two levels below it, with their folders."""
    readers = list(DATASET_SOURCES.values())
    if here := [(reader, source) for reader in readers if reader.is_at(source)]:
        return here
    return [
        (reader, folder)
        for folder in _folders(source)
        for reader in readers
        if _may_be_at(reader, folder)
    ]


def _may_be_at(reader: DatasetSource, folder: str) -> bool:
    """Says whether there is a dataset, perhaps a broken one, whose listing reports the error."""
    try:
        return reader.is_at(folder)
    except ConfigError:
        return reader is DATASET_SOURCES["lerobot_v2"]  # one of the readers must report the error
    except storage.AccessDeniedError:  # the folder's files become reject rows
        return False


def _folders(source: str) -> Iterator[str]:
    """Yields folders below a source that may be datasets, but no folders inside of a dataset."""
    level, num_seen = [source], 0
    for _ in range(_MAX_DEPTH):
        below = [storage.join(uri, name) for uri in level for name in _names(uri)]
        num_seen += len(below)
        if num_seen > _MAX_FOLDERS:  # so many folders hold a corpus of videos, not datasets
            return
        yield from below
        level = [uri for uri in below if not _has_info(uri)]


def _names(folder: str) -> list[str]:
    try:
        return storage.list_folders(folder)
    except (storage.UnreachableError, storage.CredentialsError):
        raise
    except storage.StorageError:  # a folder without permission: the listing reports it
        return []


def _has_info(folder: str) -> bool:
    try:
        return storage.is_file(storage.join(folder, INFO))
    except storage.AccessDeniedError:
        return False
