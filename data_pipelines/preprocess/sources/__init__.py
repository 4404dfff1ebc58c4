"""Formats of episodes with actions beyond ``x.mp4`` and ``x.npz``: one file each.

A format is found by what the source holds (``listing``). ``list_items`` runs on the driver,
``open`` on workers.
"""

from collections.abc import Iterator
from typing import Protocol

from data_pipelines.preprocess.rows import LeftOut, VideoItem
from data_pipelines.preprocess.sources.hdf5 import Hdf5
from data_pipelines.preprocess.sources.lerobot_info import INFO
from data_pipelines.preprocess.sources.lerobot_other import LeRobotOther
from data_pipelines.preprocess.sources.lerobot_v2 import LeRobotV2
from data_pipelines.preprocess.sources.lerobot_v3 import LeRobotV3
from data_pipelines.preprocess.sources.opened import Opened, OpenWith, Unusable
from data_pipelines.preprocess.sources.rlds import Rlds
from lafp import storage
from lafp.config import ConfigError
from lafp.data.shards.format import Split


class LabeledSource(Protocol):
    """What a format does."""

    def list_items(self, source: str, split: Split | None) -> Iterator[VideoItem | LeftOut]:
        """Lists the inputs of a dataset or file, in a stable order; URIs differ.

        Raises:
            ConfigError: It cannot be used as a whole.
            Exception: Whatever else goes wrong becomes a reject row.
        """
        ...

    def open(self, item: VideoItem, using: OpenWith) -> Iterator[Opened | Unusable]:
        """Opens the videos in one listed input. Each is gone through before the next is asked for.

        Raises:
            VideoError: It cannot be used (further), for a reason of its own.
            Exception: Whatever else goes wrong becomes a reject row too (``faults``).
        """
        ...


class DatasetSource(LabeledSource, Protocol):
    """A format whose datasets are folders."""

    def is_at(self, source: str) -> bool:
        """Whether the folder is a dataset of this format."""
        ...


DATASET_SOURCES: dict[str, DatasetSource] = {
    "lerobot_v2": LeRobotV2(),
    "lerobot_v3": LeRobotV3(),
    "lerobot_other": LeRobotOther(),
}
LABELED_SOURCES: dict[str, LabeledSource] = {**DATASET_SOURCES, "rlds": Rlds(), "hdf5": Hdf5()}


# A parent folder of datasets: the/parent/dataset or the/parent/user/dataset.
_MAX_DEPTH, _MAX_FOLDERS = 2, 1000


def find_datasets(source: str) -> list[tuple[DatasetSource, str]]:
    """The datasets at a source, or one or two levels below it, and where each is."""
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
    """Whether there is a dataset, perhaps a broken one: whoever lists it will say so."""
    try:
        return reader.is_at(folder)
    except ConfigError:
        return reader is DATASET_SOURCES["lerobot_v2"]  # one of the readers shall say it
    except storage.AccessDeniedError:  # the files of this folder become reject rows
        return False


def _folders(source: str) -> Iterator[str]:
    """Folders below a source that may be datasets, those of a dataset left out."""
    level, num_seen = [source], 0
    for _ in range(_MAX_DEPTH):
        below = [storage.join(uri, name) for uri in level for name in _names(uri)]
        num_seen += len(below)
        if num_seen > _MAX_FOLDERS:  # a corpus of videos, not of datasets
            return
        yield from below
        level = [uri for uri in below if not _has_info(uri)]


def _names(folder: str) -> list[str]:
    try:
        return storage.list_folders(folder)
    except (storage.UnreachableError, storage.CredentialsError):
        raise
    except storage.StorageError:  # one that may not be read: the listing will say so
        return []


def _has_info(folder: str) -> bool:
    try:
        return storage.is_file(storage.join(folder, INFO))
    except storage.AccessDeniedError:
        return False
